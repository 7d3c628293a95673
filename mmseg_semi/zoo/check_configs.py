"""Check the configs of the papers' tables: files, builds, README.md and metafile.yml.

Nothing here asks how the configs were written: each is loaded and built, and what it holds is held
against its name; every row of the README tables and every entry of the metafiles against the files.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, HOOKS, TRANSFORMS

from mmseg_semi.datasets.benchmark_layouts import BENCHMARK_LAYOUTS
from mmseg_semi.datasets.pipelines import labeled_pipeline, unlabeled_pipeline
from mmseg_semi.files import shipped_root
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.progress import track
from mmseg_semi.utils.safe_roads import read_yaml
from mmseg_semi.utils.weight_checks import build_shapes, without_downloads

REPO = shipped_root()
MOST_LINES = 10
NAME = re.compile(
    r'(?P<method>[a-z0-9_]+?)_'
    r'(?P<model>deeplabv3plus_(?:r50|r101|xception65)|segformer_mit-b2|dinov2-[sbl]|clip-b16)_'
    r'(?P<dataset>voc12|cityscapes|coco|ade20k|lucchi)-(?:(?P<partition>cps|u2pl)-)?(?P<labeled>\d+)'
    r'(?:_(?P<crop>\d+)x(?P=crop))?'
)
CLASSES = dict(voc12=21, cityscapes=19, coco=81, ade20k=150, lucchi=2)
BACKBONES: dict[str, dict[str, Any]] = {
    'deeplabv3plus_r50': dict(type='ResNetV1c', depth=50),
    'deeplabv3plus_r101': dict(type='ResNetV1c', depth=101),
    'deeplabv3plus_xception65': dict(type='Xception65'),
    'segformer_mit-b2': dict(type='MixVisionTransformer', embed_dims=64),
    'dinov2-s': dict(type='DINOv2', arch='small'),
    'dinov2-b': dict(type='DINOv2', arch='base'),
    'dinov2-l': dict(type='DINOv2', arch='large'),
    'clip-b16': dict(type='CLIPVisionTransformer'),
}
#: Methods that have another crop than 321 on VOC.
LARGE_CROPS = (
    *('rankmatch', 's4mc', 's4mc_fixmatch', 'mean_teacher', 'cutmix_seg', 'augseg', 'ael', 'u2pl'),
    *('weighting_augseg', 'weighting_ael', 'weighting_u2pl', 'weighting_mean_teacher'),
)
#: Crops on Cityscapes that are not 801.
CITYSCAPES_CROPS = dict.fromkeys(
    ('s4mc', 's4mc_fixmatch', 'mean_teacher', 'cutmix_seg', 'ael', 'u2pl'), 769
)
CITYSCAPES_CROPS['augseg'] = 800


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='*', type=Path, help='config files; default: all')
    parser.add_argument('--no-build', action='store_true', help='leave out building the models')
    return parser.parse_args(argv)


def benchmark_configs(folder: Path = REPO / 'configs') -> list[Path]:
    """The configs of the papers' tables, sorted."""
    return [path for path in sorted(folder.glob('*/*.py')) if NAME.fullmatch(path.stem)]


def build_model(cfg: Config) -> torch.nn.Module:
    """Build a config's model, on no device where its parts allow that, which is much faster."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return build_shapes(without_downloads(cfg.model))


# ------------------------------------------------------------------------------------- one config
def expected_crop(method: str, model: str, dataset: str, crop: str | None) -> int:
    """The crop that a name stands for."""
    if crop is not None:
        return int(crop)
    if model.startswith('dinov2'):  # multiples of 14
        return 798 if dataset == 'cityscapes' else 518
    if model.startswith('clip'):  # multiples of 16
        return 800 if dataset == 'cityscapes' else 512
    if dataset == 'voc12':
        return 513 if method in LARGE_CROPS else 321
    if dataset == 'cityscapes':
        return CITYSCAPES_CROPS.get(method, 801)
    return 513


def all_transforms(cfg: Config) -> Iterator[Any]:
    """The transforms of every pipeline of a config that has one unlabeled part at most."""
    train = cfg.train_dataloader.dataset
    yield from labeled_pipeline(train.geometry)
    if train.unlabeled is not None:
        yield from unlabeled_pipeline(train.geometry, train.unlabeled.strong)
        if train.unlabeled.get('detections'):
            yield train.unlabeled.detections
    for part in ('val', 'test'):
        yield from cfg[f'{part}_dataloader'].dataset.pipeline


def check_configs(paths: Iterable[Path], build: bool = True) -> list[str]:
    """What is wrong with config files; what several of them share is built once."""
    built: dict[str, Exception | None] | None = {} if build else None
    return [problem for path in paths for problem in _check_config(path, built)]


def _check_config(path: Path, built: dict[str, Exception | None] | None) -> list[str]:
    problems: list[str] = []

    def expect(what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            problems.append(f'{path}: {what} is {found!r}; its name says {wanted!r}')

    match = NAME.fullmatch(path.stem)
    assert match is not None  # main takes no other files
    method, dataset = match['method'], match['dataset']
    lines = path.read_text().splitlines()
    if len(lines) > MOST_LINES:
        problems.append(f'{path}: has {len(lines)} lines, more than {MOST_LINES}')
    expect('folder', path.parent.name in (method, method.split('_')[0]), True)
    try:
        cfg = load_config(str(path))
    except Exception as error:  # whatever mmengine makes of a wrong file
        return [*problems, f'{path}: can not be loaded: {type(error).__name__}: {error}']
    layout = BENCHMARK_LAYOUTS[dataset]
    split = (f'{match["partition"]}_' if match['partition'] else '') + match['labeled']
    split += '-seed0' if dataset == 'lucchi' else ''
    train = cfg.train_dataloader.dataset
    supervised = method == 'supervised'
    labeled = train.labeled
    expect('labeled.ann_file', labeled.ann_file, f'{layout.split_dir}/{split}/labeled.txt')
    if not supervised:
        wanted = f'{layout.split_dir}/{split}/unlabeled.txt'
        expect('unlabeled.ann_file', train.unlabeled.ann_file, wanted)
        expect('unlabeled.data_root', train.unlabeled.data_root, labeled.data_root)
    for part, node in (('val', cfg.val_dataloader), ('test', cfg.test_dataloader)):
        expect(f'{part} data_root', node.dataset.data_root, labeled.data_root)
    classes = len(DATASETS.get(labeled.type).METAINFO['classes'])
    expect('number of classes of the data', classes, CLASSES[dataset])
    segmentor = cfg.model if supervised else cfg.model.segmentor
    expect('decode_head.num_classes', segmentor.decode_head.num_classes, classes)
    for key, value in BACKBONES[match['model']].items():
        expect(f'backbone.{key}', segmentor.backbone.get(key), value)
    crop = expected_crop(method, match['model'], dataset, match['crop'])
    expect('crop', tuple(train.geometry.crop.crop_size), (crop, crop))
    expect('data_preprocessor.size', segmentor.data_preprocessor.get('size'), None)
    clip = match['model'].startswith('clip')
    slide = dataset == 'cityscapes' or clip
    expect('test_cfg.mode', segmentor.test_cfg.mode, 'slide' if slide else 'whole')
    if slide:
        stride = 426 if clip and dataset == 'voc12' else int(crop * 2 / 3)
        expect('test_cfg.crop_size', tuple(segmentor.test_cfg.crop_size), (crop, crop))
        expect('test_cfg.stride', tuple(segmentor.test_cfg.stride), (stride, stride))
    if method.startswith('weighting'):
        folder, boxes = (
            f'{labeled.data_root}/detection/{split}/unlabeled',
            train.unlabeled.detections,
        )
        expect('boxes', boxes.results, f'{folder}.bbox.json')
        expect('list of the boxes', boxes.images, f'{folder}.json')
    if built is not None:
        problems += build_problems(path, cfg, built)
    return problems


def build_problems(path: Path, cfg: Config, built: dict[str, Exception | None]) -> list[str]:
    """What does not build.

    Args:
        path: The config file, for messages.
        cfg: Its content.
        built: The error, or None, of each part that was built before, by its config; added to.
    """

    def once(node: Any, build: Callable[[], Any]) -> None:
        key = repr(node)
        if key not in built:
            built[key] = None
            try:
                build()
            except Exception as wrong:  # every part has errors of its own
                built[key] = wrong
        error = built[key]
        if error is not None:
            raise error

    try:
        with DefaultScope.overwrite_default_scope('mmseg'):
            once(cfg.model, lambda: build_model(cfg))
            for transform in all_transforms(cfg):
                once(transform, partial(TRANSFORMS.build, dict(transform)))
            for hook in cfg.custom_hooks:
                once(hook, partial(HOOKS.build, dict(hook)))
    except Exception as error:
        return [f'{path}: can not be built: {type(error).__name__}: {error}']
    return []


# --------------------------------------------------------------------------- README and metafile
ROW = re.compile(
    r'\| \[(?P<stem>[^\]]+)\]\((?P<file>[^)]+)\) \|(?P<split>[^|]*)\| (?P<labeled>\d+) \+ '
    r'(?P<unlabeled>\d+) \|(?P<paper>[^|]*)\|(?P<ours>[^|]*)\|(?P<log>[^|]*)\|'
)


def readme_rows(path: Path) -> dict[str, re.Match[str]]:
    """Rows of the result tables of a README.md, by name of the config."""
    return {match['stem']: match for match in ROW.finditer(path.read_text(encoding='utf-8'))}


def check_method(folder: Path) -> list[str]:
    """What is wrong between the files, README.md and metafile.yml of one method's folder."""
    readme, metafile = folder / 'README.md', folder / 'metafile.yml'
    missing = [f'{path}: is missing' for path in (readme, metafile) if not path.is_file()]
    if missing:
        return missing
    rows, content = readme_rows(readme), read_yaml(metafile)
    entries = {entry['Name']: entry for entry in content['Models']}
    files = {path.stem for path in benchmark_configs(folder.parent) if path.parent == folder}
    problems = []
    for name in sorted(files - set(rows)):
        problems.append(f'{readme}: has no row for {name}.py')
    for name in sorted(files - set(entries)):
        problems.append(f'{metafile}: has no entry for {name}.py')
    for name in sorted(set(rows) ^ set(entries)):
        problems.append(f'{folder}: {name} is in one of README.md and metafile.yml alone')
    if len(content['Models']) != len(entries):
        problems.append(f'{metafile}: names a model twice')
    (collection,) = content['Collections']
    if not (REPO / collection['README']).is_file():
        problems.append(f'{metafile}: its README {collection["README"]} does not exist')
    for name in sorted(set(rows) & set(entries)):
        problems += check_row(folder, rows[name], entries[name], collection['Name'])
    return problems


def check_row(folder: Path, row: re.Match[str], entry: Mapping[str, Any], name: str) -> list[str]:
    """What is wrong between a row of README.md, an entry of metafile.yml and the config file."""
    stem, meta = row['stem'], entry['Metadata']
    ours = row['ours'].strip()
    ours = float(ours.split()[0]) if ours else None
    results = entry.get('Results') or []
    pairs = [
        ('file of the link', row['file'], f'{stem}.py'),
        ('file', (folder / row['file']).is_file(), True),
        ('Config of metafile.yml', entry['Config'], f'configs/{folder.name}/{stem}.py'),
        ('In Collection of metafile.yml', entry['In Collection'], name),
        ('number of labeled images', int(row['labeled']), meta['Labeled Images']),
        ('number of unlabeled images', int(row['unlabeled']), meta['Unlabeled Images']),
        ("the paper's mIoU", row['paper'].strip(), str(float(meta.get('Paper mIoU', 'nan')))),
        ('our mIoU', ours, results[0]['Metrics']['mIoU'] if results else None),
    ]
    if 'Paper mIoU' not in meta:
        pairs[6] = ("the paper's mIoU", row['paper'].strip(), '')
    match = NAME.fullmatch(stem)
    if match:
        total = BENCHMARK_LAYOUTS[match['dataset']].num_train
        pairs += [
            ('number of labeled images', int(row['labeled']), int(match['labeled'])),
            ('number of all images', int(row['labeled']) + int(row['unlabeled']), total),
        ]
    return [f'{folder}: {stem}: {what}: {a!r} and {b!r}' for what, a, b in pairs if a != b]


def check_index(configs: Path) -> list[str]:
    """What is wrong with model-index.yml."""
    path = configs.parent / 'model-index.yml'
    listed = read_yaml(path)['Import']
    there = [
        f'configs/{p.parent.name}/metafile.yml' for p in sorted(configs.glob('*/metafile.yml'))
    ]
    return [] if sorted(listed) == there else [f'{path}: imports {listed}; there are {there}']


def main(argv: Sequence[str] | None = None) -> None:
    """Check everything and print what is wrong."""
    args = parse_args(argv)
    folder = REPO / 'configs'
    paths = args.configs or benchmark_configs(folder)
    unknown = [str(path) for path in paths if not NAME.fullmatch(path.stem)]
    if unknown:
        raise SystemExit(f"no configs of the papers' tables by their name: {', '.join(unknown)}")
    problems = check_configs(track(paths, 'configs'), not args.no_build)
    if not args.configs:
        for method in sorted({path.parent for path in paths}):
            problems += check_method(method)
        problems += check_index(folder)
    print('\n'.join(problems))
    if problems:
        raise SystemExit(f'{len(problems)} problems in {len(paths)} configs')
    print(f'{len(paths)} configs: all right')
