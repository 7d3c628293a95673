"""One training step, and a validation, of every kind of benchmark config.

The data are miniature copies of the real ones, prepared by the tools as a user prepares them. A
kind is a shared base of ``configs/_base_/benchmarks``; the config tried is a shipped one, in which
only the widths and the depth of the network, the crop, the batch and the length of the run are made
small.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from equal_blocks import small_networks
from miniature_data import make_ade20k, make_cityscapes, make_coco, make_lucchi, make_sbd, make_voc
from mmengine.runner import Runner
from tool_runs import CONFIGS, TOOLS

from mmseg_semi.utils.config import load_config
from mmseg_semi.zoo import check_configs as checker
from mmseg_semi.zoo.compatibility import QuickRunner

CONVERTERS = TOOLS / 'dataset_converters'
CROP = 33
PATCHED_CROPS = dict(DINOv2=28, CLIPVisionTransformer=32)  # multiples of their patches
ROOTS = dict(
    voc12='VOC12_ROOT',
    cityscapes='CITYSCAPES_ROOT',
    coco='COCO_ROOT',
    ade20k='ADE20K_ROOT',
    lucchi='LUCCHI_ROOT',
)


def base_of(path: Path) -> str:
    """Name of the shared base that a config is a child of."""
    (line,) = [one for one in path.read_text().splitlines() if one.startswith('_base_')]
    return Path(line.split("'")[1]).stem


def one_of_each_base() -> dict[str, Path]:
    """The first config of each shared base, preferring a ResNet-50."""
    paths = sorted(
        checker.benchmark_configs(CONFIGS), key=lambda path: ('r50' not in path.stem, path)
    )
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(base_of(path), path)
    return dict(sorted(found.items()))


KINDS = one_of_each_base()


def test_every_shared_base_is_tried() -> None:
    bases = {path.stem for path in (CONFIGS / '_base_' / 'benchmarks').glob('*.py')}
    assert bases == set(KINDS)
    assert {checker.NAME.fullmatch(path.stem)['dataset'] for path in KINDS.values()} == set(ROOTS)
    print(f'{len(KINDS)} kinds of benchmark configs')


# ------------------------------------------------------------------------------------------- data
@pytest.fixture(scope='session')
def data_roots(server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Miniature data sets, converted as the documentation says."""
    folder = tmp_path_factory.mktemp('benchmark_data')
    voc, sbd = make_voc(folder / 'voc'), make_sbd(folder / 'voc')
    roots = dict(
        voc12=voc.root,
        cityscapes=make_cityscapes(folder / 'cityscapes').root,
        coco=make_coco(folder / 'coco').root,
        ade20k=make_ade20k(folder / 'ade20k').root,
        lucchi=make_lucchi(folder / 'lucchi').root,
    )
    server.run(CONVERTERS / 'voc_sbd.py', voc.root, sbd.root, '--partial')
    for tool, name in (
        ('cityscapes_train_ids', 'cityscapes'),
        ('coco_masks', 'coco'),
        ('lucchi', 'lucchi'),
    ):
        server.run(CONVERTERS / f'{tool}.py', roots[name], '--partial')
    return roots


@pytest.fixture
def prepare(server: Any, data_roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that makes the split, and the boxes, of a config."""
    for name, variable in ROOTS.items():
        monkeypatch.setenv(variable, str(data_roots[name]))

    def prepare(path: Path) -> None:
        match = checker.NAME.fullmatch(path.stem)
        root = data_roots[match['dataset']]
        cfg = load_config(str(path))
        train = cfg.train_dataloader.dataset
        split = root / train.labeled.ann_file
        if not split.is_file():
            server.run(
                CONVERTERS / 'make_splits.py',
                *(match['dataset'], '--sizes', 2, '--data-root', root, '--partial'),
                *('--name', split.parent.name),
            )
        if match['method'].startswith('weighting'):
            find_boxes(server, path, cfg)

    return prepare


def find_boxes(server: Any, path: Path, cfg: Any) -> None:
    """What a detector would write: every class all over every unlabeled image."""
    load = cfg.train_dataloader.dataset.unlabeled.detections
    if Path(load.results).is_file():
        return
    server.run(CONVERTERS / 'masks_to_coco.py', path, '--min-area', 1, env=roots_of(cfg))
    listed = json.loads(Path(load.images).read_text())
    boxes = [
        dict(
            image_id=image['id'],
            category_id=category['id'],
            bbox=[0, 0, image['width'], image['height']],
            score=0.99,
        )
        for image in listed['images']
        for category in listed['categories']
    ]
    Path(load.results).write_text(json.dumps(boxes))


def roots_of(cfg: Any) -> dict[str, str]:
    """The environment in which the tools find the data of a config."""
    root = cfg.train_dataloader.dataset.labeled.data_root
    return {variable: root for variable in ROOTS.values()}


# ------------------------------------------------------------------------------------------ small
def shrink(cfg: Any, work_dir: Path) -> None:
    """Narrow networks, small crops, 2 + 2 images, one iteration."""
    supervised = 'segmentor' not in cfg.model
    segmentor = cfg.model if supervised else cfg.model.segmentor
    segmentor.pop('pretrained', None)
    backbone, head = segmentor.backbone, segmentor.decode_head
    if backbone.type == 'ResNetV1c':
        backbone.update(depth=50, base_channels=8, stem_channels=16)
        head.update(in_channels=(32, 256), channels=32)
        if 'auxiliary_head' in segmentor:
            segmentor.auxiliary_head.update(in_channels=128, channels=32)
    elif backbone.type == 'MixVisionTransformer':
        backbone.update(embed_dims=8, num_layers=[1] * 4, sr_ratios=[2, 1, 1, 1], init_cfg=None)
        head.update(in_channels=[8, 16, 40, 64], channels=32)
    elif backbone.type == 'DINOv2':
        backbone.update(arch='small', depth=4, out_indices=(0, 1, 2, 3), init_cfg=None)
        head.update(in_channels=(384,) * 4, channels=8, widths=(8, 8, 8, 8))
    elif backbone.type == 'CLIPVisionTransformer':
        backbone.update(channels=8, depth=5, heads=2, embed_dim=6, init_cfg=None)
        head.update(in_channels=(8, 8, 6), channels=16, widths=(16, 16), skip_channels=(4, 4))
        if 'detail' in backbone:
            backbone.detail.update(base_channels=2, stem_channels=4, init_cfg=None)
        head.text = None
        for one in (*cfg.val_dataloader.dataset.pipeline, *cfg.test_dataloader.dataset.pipeline):
            if one.type == 'Resize':
                one.scale = (256, 64)
    elif backbone.type == 'Xception65':  # its widths: see equal_blocks.py
        head.update(in_channels=(32, 256), channels=32, aspp_channels=32)
    heads = cfg.model.get('heads', {})
    if heads.get('rank'):
        heads.rank.num_agents = 8
    if heads.get('contrast'):
        heads.contrast.bank = dict(size=512)
    crop = PATCHED_CROPS.get(backbone.type, CROP)
    cfg.train_dataloader.dataset.geometry.crop.crop_size = (crop, crop)
    if segmentor.test_cfg.mode == 'slide':
        segmentor.test_cfg.update(crop_size=(crop, crop), stride=(22, 22))
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2 if supervised else 4
    cfg.train_cfg = dict(type='SemiTrainLoop', max_iters=1)
    if not supervised:
        cfg.model.warmup_epochs = 0
    cfg.work_dir = str(work_dir)
    del cfg.default_hooks.visualization
    cfg.default_hooks.checkpoint.update(interval=1, save_best=None)
    cfg.randomness = dict(seed=0)


def watch(runner: Runner) -> dict[str, float]:
    """Returns a dict that is going to hold what the training step gave."""
    values: dict[str, float] = {}
    step = runner.model.train_step

    def train_step(*args: Any, **kwargs: Any) -> Any:
        outputs = step(*args, **kwargs)
        values.update({key: float(value) for key, value in outputs.items()})
        return outputs

    runner.model.train_step = train_step
    return values


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def few_equal_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_networks(monkeypatch)


def last_metrics(runner: Runner) -> Mapping[str, Any]:
    return {key.split('/')[-1]: value for key, value in runner.message_hub.log_scalars.items()}


@pytest.mark.parametrize('kind', list(KINDS))
def test_one_step_and_a_validation(kind: str, prepare: Any, tmp_path: Path) -> None:
    path = KINDS[kind]
    prepare(path)
    cfg = load_config(str(path))
    shrink(cfg, tmp_path)
    cfg.experiment_name = f'{kind}_{tmp_path.name}'
    cfg.visualizer.name = cfg.experiment_name
    runner = QuickRunner.from_cfg(cfg)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    values = watch(runner)
    runner.train()
    losses = {key: value for key, value in values.items() if 'loss' in key}
    assert losses['decode.loss_ce'] > 0 and all(torch.isfinite(torch.tensor([*losses.values()])))
    segmentor = getattr(runner.model, 'segmentor', runner.model)
    assert ('aux.loss_ce' in losses) == segmentor.with_auxiliary_head
    after = runner.model.state_dict()
    assert any(not after[name].equal(value) for name, value in before.items() if 'conv' in name)
    assert 'mIoU' in last_metrics(runner)
    record = torch.load(tmp_path / 'iter_1.pth', weights_only=True)['meta']['mmseg_semi']
    assert record['labeled'] == 2
    if not kind.startswith('supervised'):
        assert any(key.startswith('strong.') for key in losses), losses
