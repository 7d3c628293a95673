"""Bad inputs, one at a time, through the real command lines.

Each ends with one sentence that names the file, option or config key and says what is wrong, with
exit status 1 (2 for a command line that cannot be parsed), without a traceback, and leaves nothing
half-written.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from leaves import leaves_config, make_leaves
from PIL import Image
from tool_runs import TOOLS

Change = Callable[[Path], Any]
LABELED, MASKS = 'images/labeled/l0.jpg', 'annotations/labeled/l0.png'


class Case:
    """A bad input.

    Args:
        said: What the message must hold.
        change: What is done to the folder of the data, which also holds ``config.py``.
        args: Arguments after the usual ones; ``{root}`` is the folder.
        extra: Text at the end of the config.
        tool: The command, below ``tools/``; None for its own arguments alone.
        code: Exit status.
    """

    def __init__(
        self,
        *said: str,
        change: Change | None = None,
        args: tuple[str, ...] = (),
        extra: str = '',
        tool: str = 'train.py',
        code: int = 1,
    ) -> None:
        self.said, self.change, self.args, self.extra = said, change, args, extra
        self.tool, self.code = tool, code


def write(name: str, content: bytes | str) -> Change:
    def change(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def cut(name: str) -> Change:
    def change(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])

    return change


def remove(name: str) -> Change:
    def change(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def copy(source: str, target: str) -> Change:
    return lambda root: shutil.copy(root / source, root / target)


def mask(make: Callable[[np.ndarray], Any], name: str = MASKS) -> Change:
    def change(root: Path) -> None:
        made = make(np.array(Image.open(root / name)))
        (made if isinstance(made, Image.Image) else Image.fromarray(made)).save(root / name)

    return change


def every_mask(make: Callable[[np.ndarray], Any]) -> Change:
    def change(root: Path) -> None:
        for path in sorted((root / 'annotations/labeled').iterdir()):
            mask(make, str(path.relative_to(root)))(root)

    return change


def options(*pairs: str) -> tuple[str, ...]:
    return ('--cfg-options', *pairs)


def checkpoint(content: Any, name: str = 'work/iter_1.pth') -> Change:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, root / name)

    return change


HEAD = 'model.segmentor.decode_head'
CONFIG = {
    'config-missing': Case('none.py does not exist', args=('{root}/none.py',), tool='train.py '),
    'config-folder': Case(
        'is a folder: name a file of configs', args=('{root}',), tool='train.py '
    ),
    'config-text': Case(
        'README.md: the name of a config ends with .py, .json',
        change=write('README.md', '# Leaves'),
        args=('{root}/README.md',),
        tool='train.py ',
    ),
    'syntax': Case('config.py cannot be read: SyntaxError', extra='x = ('),
    'unknown-name': Case("NameError: name 'nothing' is not defined", extra='_x = nothing'),
    'missing-base': Case(
        'none.py',
        change=write('b.py', "_base_ = './none.py'"),
        args=('{root}/b.py',),
        tool='train.py ',
    ),
    'missing-import': Case(
        'no_such_package', extra="custom_imports = dict(imports=['no_such_package'])"
    ),
    'unread-key': Case("Did you mean 'train_dataloader'?", extra='train_datalaoder = dict()'),
    'unread-variable': Case("nothing reads 'strong'", extra='strong = dict()'),
    'unread-option': Case('--cfg-options strong', args=options('strong=x')),
    'option-without-value': Case('--cfg-options', args=options('model'), code=2),
    'option-into-a-number': Case('train_cfg.max_iters.x', args=options('train_cfg.max_iters.x=1')),
    'unknown-type': Case("Did you mean 'UNet'?", args=options('model.segmentor.backbone.type=UNt')),
    'unknown-argument': Case("'num_clases'", args=options(f'{HEAD}.num_clases=3')),
    'unknown-loader-key': Case("'batch_size'", args=options('train_dataloader.batchsize=2')),
    'unknown-loss-key': Case("'class_weight'", args=options(f'{HEAD}.loss_decode.class_weigth=3')),
    'one-class': Case(f'{HEAD}.num_classes is 1', args=options(f'{HEAD}.num_classes=1')),
    'other-classes': Case('num_classes is 5', args=options(f'{HEAD}.num_classes=5')),
    'class-weight': Case(
        f'{HEAD}.loss_decode.class_weight has 2 numbers, there are 3 classes',
        args=options(f'{HEAD}.loss_decode.class_weight=[1,2]'),
    ),
    'class-weight-file': Case(
        'class_weight',
        'is a pickle',
        change=write('w.pkl', pickle.dumps([1, 2, 3])),
        args=options(f'{HEAD}.loss_decode.class_weight={{root}}/w.pkl'),
    ),
    'ignore-index': Case(f'{HEAD}.ignore_index is 0', args=options(f'{HEAD}.ignore_index=0')),
    'threshold': Case('threshold', args=options('model.refiners.select.threshold=2')),
    'save-best': Case("'mIuO'", args=options('default_hooks.checkpoint.save_best=mIuO')),
    'no-iterations': Case('max_iters', args=options('train_cfg.max_iters=0')),
    'iterations-text': Case('max_iters', args=options('train_cfg.max_iters=many')),
    'batch-of-none': Case('batch_size', args=options('train_dataloader.batch_size=0')),
    'workers': Case('num_workers', args=options('train_dataloader.num_workers=-1')),
    'learning-rate': Case('lr', args=options('optim_wrapper.optimizer.lr=-1.0')),
    'seed': Case('--seed', args=('--seed', 'x'), code=2),
    'launcher': Case('--launcher', args=('--launcher', 'magic'), code=2),
    'amp': Case(
        '--amp', extra="optim_wrapper = dict(type='mmengine.ApexOptimWrapper')", args=('--amp',)
    ),
    'auto-scale-lr': Case(
        'base_batch_size', extra='auto_scale_lr = dict(_delete_=True)', args=('--auto-scale-lr',)
    ),
    'work-dir-a-file': Case('work', change=write('work', 'x')),
}
WEIGHTS = {
    'pretrained-missing': Case(
        'model.segmentor.pretrained: there is no file',
        args=options('model.segmentor.pretrained=none.pth'),
    ),
    'pretrained-unknown': Case(
        'no model has the name', args=options('model.segmentor.pretrained=open-mmlab://nothing')
    ),
    'pretrained-unreachable': Case(
        'http://127.0.0.1:9/a.pth cannot be downloaded',
        args=options('model.segmentor.pretrained=http://127.0.0.1:9/a.pth'),
    ),
    'load-missing': Case('load_from none.pth', args=options('load_from=none.pth')),
    'load-text': Case(
        'no checkpoint of torch',
        change=write('a.pth', 'weights'),
        args=options('load_from={root}/a.pth'),
    ),
    'load-pickle': Case(
        'a.pth',
        change=write('a.pth', pickle.dumps(print)),
        args=options('load_from={root}/a.pth'),
    ),
    'load-list': Case(
        'holds a list', change=checkpoint([1], 'a.pth'), args=options('load_from={root}/a.pth')
    ),
    'load-other-network': Case(
        'does not fit',
        change=checkpoint(dict(state_dict={'a': torch.zeros(1)}), 'a.pth'),
        args=options('load_from={root}/a.pth'),
    ),
    'resume-missing': Case('--resume none.pth', args=('--resume', 'none.pth')),
    'resume-weights-only': Case(
        'no optimizer',
        change=checkpoint(dict(state_dict={}, meta=dict(iter=1, epoch=0))),
        args=('--resume', '{root}/work/iter_1.pth'),
    ),
    'resume-address': Case('it takes a file', args=('--resume', 'http://127.0.0.1:9/a.pth')),
    'used-folder': Case(
        'work has checkpoints of an earlier run (iter_1.pth)', change=checkpoint(dict(a=1))
    ),
    'used-labels-alone': Case(
        'work/labels_alone has checkpoints of an earlier run (iter_1.pth)',
        change=checkpoint(dict(a=1), 'work/labels_alone/iter_1.pth'),
    ),
    'resume-empty': Case('is empty', change=write('work/iter_1.pth', ''), args=('--resume',)),
    'resume-text': Case('iter_1.pth', change=write('work/iter_1.pth', 'x'), args=('--resume',)),
}
DATA = {
    'no-data': Case(
        'there is no folder', args=options('train_dataloader.dataset.labeled.data_root=nowhere')
    ),
    'no-images': Case('images/labeled', change=remove('images/labeled')),
    'no-masks': Case('annotations/labeled', change=remove('annotations/labeled')),
    'no-unlabeled': Case('images/unlabeled', change=remove('images/unlabeled')),
    'no-val': Case('images/val', change=remove('images/val')),
    'a-mask-missing': Case('l0', change=remove(MASKS)),
    'a-val-mask-missing': Case('v0', change=remove('annotations/val/v0.png')),
    'list-missing': Case(
        'none.txt', args=options('train_dataloader.dataset.labeled.ann_file=none.txt')
    ),
    'list-empty': Case(
        'list.txt',
        change=write('list.txt', ''),
        args=options('train_dataloader.dataset.labeled.ann_file=list.txt'),
    ),
    'list-latin-1': Case(
        'list.txt',
        'UTF-8',
        change=write('list.txt', 'Bl\u00e4tter\n'.encode('latin-1')),
        args=options('train_dataloader.dataset.labeled.ann_file=list.txt'),
    ),
    'list-of-nothing': Case(
        'nothing',
        change=write('list.txt', 'nothing\n'),
        args=options('train_dataloader.dataset.labeled.ann_file=list.txt'),
    ),
    'unlabeled-list-of-nothing': Case(
        'nothing',
        change=write('list.txt', 'nothing\n'),
        args=options('train_dataloader.dataset.unlabeled.ann_file=list.txt'),
    ),
    'labeled-cut': Case(LABELED, change=cut(LABELED)),
    'labeled-text': Case(LABELED, change=write(LABELED, 'no image')),
    'labeled-empty': Case(LABELED, change=write(LABELED, '')),
    'unlabeled-cut': Case('images/unlabeled/u0.jpg', change=cut('images/unlabeled/u0.jpg')),
    'val-cut': Case('images/val/v0.jpg', change=cut('images/val/v0.jpg')),
    'mask-cut': Case(MASKS, change=cut(MASKS)),
    'val-mask-cut': Case('annotations/val/v0.png', change=cut('annotations/val/v0.png')),
    'mask-in-color': Case(MASKS, change=mask(lambda m: np.stack([m * 100] * 3, -1))),
    'mask-of-7': Case(MASKS, '7', change=mask(lambda m: m + 7)),
    'mask-of-300': Case(MASKS, '300', change=mask(lambda m: m.astype(np.uint16) + 300)),
    'mask-of-another-size': Case(MASKS, change=mask(lambda m: m[:-3])),
    'masks-without-class': Case(
        'none of the 4 masks has a pixel of any class',
        change=every_mask(lambda m: np.full_like(m, 255)),
    ),
    'val-among-unlabeled': Case(
        'honest', change=copy('images/val/v0.jpg', 'images/unlabeled/u9.jpg')
    ),
    'val-among-labeled': Case('honest', change=copy('images/val/v0.jpg', LABELED)),
}
TEST = {
    'checkpoint-missing': Case('none.pth', args=('none.pth',), tool='test.py'),
    'checkpoint-of-another': Case(
        'does not fit',
        change=checkpoint(dict(state_dict={'a': torch.zeros(1)}), 'a.pth'),
        args=('{root}/a.pth',),
        tool='test.py',
    ),
    'masks-nowhere': Case(
        'To predict images that have no masks, give --images DIR',
        change=lambda root: (remove('annotations/val')(root), checkpoint({}, 'a.pth')(root)),
        args=('{root}/a.pth',),
        tool='test.py',
    ),
    'images-nowhere': Case(
        '--images',
        args=('{root}/a.pth', '--images', 'nowhere', '--out', 'x'),
        change=checkpoint(dict(a=1), 'a.pth'),
        tool='test.py',
    ),
    'images-for-nothing': Case(
        '--images needs --out',
        args=('{root}/a.pth', '--images', '.'),
        change=checkpoint(dict(a=1), 'a.pth'),
        tool='test.py',
    ),
    'predictor': Case(
        '--predict-with', args=('{root}/a.pth', '--predict-with', 'nobody'), tool='test.py', code=2
    ),
}
OTHERS = {
    'make-splits': Case(
        'custom needs --images',
        tool='dataset_converters/make_splits.py ',
        args=('custom', '--sizes', '2', '--data-root', 'nowhere'),
    ),
    'make-splits-too-many': Case(
        '40',
        tool='dataset_converters/make_splits.py ',
        args=(
            *('custom', '--sizes', '40', '--data-root', '{root}', '--name', 'x'),
            *('--images', 'images/labeled', '--masks', 'annotations/labeled'),
            *('--img-suffix', '.jpg'),
        ),
    ),
    'import-splits': Case(
        'nowhere',
        tool='dataset_converters/import_splits.py ',
        args=('voc12', 'nowhere', '--data-root', '{root}'),
    ),
    'masks-to-coco': Case(
        'annotations/labeled',
        change=remove('annotations/labeled'),
        tool='dataset_converters/masks_to_coco.py',
    ),
    'voc': Case('nowhere', tool='dataset_converters/voc_sbd.py ', args=('nowhere', 'nowhere')),
    'coco': Case('nowhere', tool='dataset_converters/coco_masks.py ', args=('nowhere',)),
    'cityscapes': Case(
        'nowhere', tool='dataset_converters/cityscapes_train_ids.py ', args=('nowhere',)
    ),
    'lucchi': Case('nowhere', tool='dataset_converters/lucchi.py ', args=('nowhere',)),
    'digit-scenes': Case(
        '--size',
        tool='dataset_converters/digit_scenes.py ',
        args=('{root}/d', '--size', '-3'),
        code=2,
    ),
    'extract': Case(
        'none.pth',
        tool='model_converters/extract_segmentor.py ',
        args=('none.pth', '--out', '{root}/o.pth', '--config', '{root}/config.py'),
    ),
    'clip-text': Case(
        'names.txt',
        tool='model_converters/clip_text.py ',
        args=('nowhere', '{root}/names.txt', '{root}/o.pt'),
    ),
    'semi2mmseg': Case(
        'a.pth',
        tool='model_converters/semi2mmseg.py ',
        change=write('a.pth', 'x'),
        args=('{root}/a.pth', '{root}/o.pth'),
    ),
    'run-table': Case('no table', tool='benchmarks/run_table.py ', args=('corrmatch/table-99',)),
    'draw-method': Case(
        'none.pth',
        tool='analysis_tools/draw_method.py ',
        args=('agents', '{root}/config.py', 'none.pth', '{root}/o.png'),
    ),
    'neighbor-agreement': Case(
        MASKS,
        change=cut(MASKS),
        tool='analysis_tools/neighbor_agreement.py',
        args=('--out', '{root}/o.json'),
    ),
    'pseudo-labels': Case(
        'none.pth',
        tool='analysis_tools/pseudo_labels.py',
        args=('none.pth', '--truth', '{root}'),
    ),
    'frameworks': Case(
        'nowhere', tool='benchmarks/frameworks.py ', args=('--out', 'nowhere/a.md'), code=2
    ),
    'detector-agreement': Case(
        'give --results and --images',
        tool='analysis_tools/detector_agreement.py',
        args=('none.pth', '{root}'),
    ),
}
CASES = {**CONFIG, **WEIGHTS, **DATA, **TEST, **OTHERS}


@pytest.fixture(scope='module')
def leaves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_leaves(tmp_path_factory.mktemp('leaves') / 'data')


@pytest.mark.parametrize('name', CASES)
def test_a_bad_input_is_one_sentence(name, leaves, server, tmp_path):
    case, root = CASES[name], tmp_path / 'data'
    shutil.copytree(leaves, root)
    leaves_config(root / 'config.py', root, case.extra)
    if case.change is not None:
        case.change(root)
    args = [one.format(root=root) for one in case.args]
    if not case.tool.endswith(' '):  # else it has no config before its arguments
        args = [root / 'config.py', *args]
        if case.tool in ('train.py', 'test.py'):
            args += ['--work-dir', root / 'work']
    done = server.run(TOOLS / case.tool.strip(), *args, code=case.code, cwd=tmp_path)
    (line,) = [one for one in done.output.splitlines() if 'error: ' in one][-1:]
    assert all(text in line for text in case.said), line
    assert 'Traceback' not in done.output
    assert len(line) < 900 and line.count('. ') < 8
    assert not list(tmp_path.rglob('*.part')) and not list(tmp_path.rglob('iter_2.pth'))


def test_there_are_enough_of_them():
    print(f'{len(CASES)} bad inputs')
    assert len(CASES) >= 60
    assert {case.tool.strip().split('/')[-1] for case in CASES.values()} >= {
        *('train.py', 'test.py', 'make_splits.py', 'import_splits.py', 'masks_to_coco.py'),
        *('extract_segmentor.py', 'semi2mmseg.py', 'run_table.py'),
    }


def test_the_same_data_train_without_them(leaves, server, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(leaves, root)
    config = leaves_config(root / 'config.py', root)
    server.run(TOOLS / 'train.py', config, '--work-dir', tmp_path / 'work')
    assert (tmp_path / 'work/iter_2.pth').is_file()
