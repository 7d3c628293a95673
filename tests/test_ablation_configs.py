"""The papers' ablations: what their configs change, and a step of each that differs."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from equal_blocks import small_networks
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import HOOKS, MODELS
from test_benchmark_runs import shrink
from tool_runs import CONFIGS

from mmseg_semi.benchmarks.measuring import step_inputs
from mmseg_semi.models.segmentors.building import needed_hooks
from mmseg_semi.utils.config import load_config
from mmseg_semi.zoo import check_configs as checker
from mmseg_semi.zoo import write_configs as writer
from mmseg_semi.zoo.paper_tables import Row, load_methods

METHODS = load_methods(CONFIGS)
ROWS = [row for method in METHODS.values() for row in method.ablation_rows]
#: Rows of the papers' ablations, those that have no config, configs that they need.
COUNTS = dict(
    corrmatch=(48, 0, 72),
    rankmatch=(26, 3, 15),
    s4mc=(22, 0, 23),
    unimatch_v2=(18, 0, 34),
    weighting=(37, 2, 31),
)
VOC12_ROOT = '{{$VOC12_ROOT:data/VOCdevkit/VOC2012}}'
#: Models that differ once they are small.
STEPS = dict(corrmatch=36, rankmatch=11, s4mc=19, unimatch_v2=8, weighting=14)


@pytest.fixture(scope='module', autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The file that S4MC's joint probability is read from, few equal blocks, and one thread."""
    root, threads = tmp_path_factory.mktemp('voc'), torch.get_num_threads()
    content = dict(overall=0.9, per_class=[0.9] * 21)
    (root / 'neighbor_agreement.json').write_text(json.dumps(content))
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('VOC12_ROOT', str(root))
        small_networks(patch)
        with DefaultScope.overwrite_default_scope('mmseg'):
            yield
    torch.set_num_threads(threads)


@functools.cache
def read(config: str) -> Config:
    """A config, which stays as it is."""
    return load_config(str(CONFIGS / config))


def test_the_number_of_rows_and_configs() -> None:
    found = {}
    for name, method in METHODS.items():
        lines = {(t.name, row.label): row.reason for t in method.ablations for row in t.rows}
        without = sum(reason is not None for reason in lines.values())
        if lines:
            found[name] = (len(lines), without, len(method.ablation_rows))
    assert found == COUNTS and sum(rows for rows, _, _ in found.values()) == 151
    there = {p for p in CONFIGS.glob('*/ablations/*.py') if 'digit-scenes' not in p.name}
    assert there == {CONFIGS / row.config for row in ROWS}


@pytest.mark.parametrize('folder', COUNTS)
def test_an_ablation_is_its_base_with_the_keys_of_its_setting(folder: str) -> None:
    """As if they were given on the command line."""
    for row in METHODS[folder].ablation_rows:
        path = CONFIGS / row.config
        assert len(path.read_text().splitlines()) <= 12, path
        base = read(replace(row, setting=None).config)
        wanted = copy.deepcopy(base)
        options = json.dumps(dict(row.keys)).replace(VOC12_ROOT, os.environ['VOC12_ROOT'])
        wanted.merge_from_dict(json.loads(options))
        found = read(row.config).to_dict()
        assert found == wanted.to_dict(), path
        assert found != base.to_dict(), path


# ------------------------------------------------------------------------------------------ steps
def settings(folder: str) -> dict[str, Row]:
    """The first row of each setting that changes the model."""
    found: dict[str, Row] = {}
    for row in METHODS[folder].ablation_rows:
        if any(key.startswith('model.') for key in row.keys):
            found.setdefault(f'{row.prefix}_{row.setting}', row)
    return found


@pytest.mark.parametrize('folder', COUNTS)
def test_every_ablation_builds_and_takes_a_step(folder: str, tmp_path: Path) -> None:
    """What is equal once the model is small takes one step."""
    taken = []
    for name, row in settings(folder).items():
        cfg = copy.deepcopy(read(row.config))
        checker.build_model(cfg)
        shrink(cfg, tmp_path)
        if cfg.model not in taken:
            taken.append(cfg.model)
            take_step(cfg, name)
    assert len(taken) == STEPS[folder]


def take_step(cfg: Config, name: str) -> None:
    """Forward and backward of random images; every loss and head that is there has a loss."""
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model)).train()
    for hook in needed_hooks(model):
        model.hook_attached(HOOKS.build(hook))
    model.set_progress(0, 10, 5)
    views = cfg.train_dataloader.dataset.unlabeled.strong.num_views
    crop = cfg.train_dataloader.dataset.geometry.crop.crop_size[0]
    data = step_inputs(model, 2, crop, views)
    # Each class has a box all over the image.
    data['inputs']['maps'] = dict(detections=torch.full((2, 3, crop, crop), 255).byte())
    losses = model.loss(**data)
    named = {key.split('.')[0] for key in losses if 'loss' in key}
    parts = {**cfg.model.losses, **(cfg.model.get('heads') or {})}
    assert named == {'decode', *(key for key, part in parts.items() if part is not None)}, name
    total, _ = model.parse_losses(losses)
    total.backward()
    gradient = model.segmentor.decode_head.conv_seg.weight.grad
    assert torch.isfinite(total) and torch.isfinite(gradient).all(), name
    assert gradient.abs().max() > 0, name


# ----------------------------------------------------------------------------------------- writer
def test_long_settings_are_written_over_several_lines() -> None:
    keys = {'model.a.b': None, 'model.c.d': {'type': 'X' * 60}, 'model.c.e': 0.5}
    (name, value), *more = writer.nested(keys).items()
    assert more == []
    assert writer.assignment(name, value) == [
        'model = dict(',
        '    a=dict(b=None),',
        f"    c=dict(d=dict(type='{'X' * 60}'), e=0.5),",
        ')',
    ]
    assert writer.assignment('model', dict(a=1)) == ['model = dict(a=1)']


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('setting: pixel', 'setting: pixels', "the setting 'pixels' is none of"),
        ('  pixel: {', '  pixel2: {}\n  pixel: {', r"settings of no row: \['pixel2'\]"),
        ("paper: {'732': 80.4", "paper: {'733': 80.4", 'no tables.yml has the configs of'),
        ('    caption: strategy', '    captain: strategy', "'captain'"),
    ],
)
def test_a_wrong_ablation_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    for name in ('tables.yml', 'ablations.yml'):
        text = (CONFIGS / 'corrmatch' / name).read_text()
        (tmp_path / 'corrmatch').mkdir(exist_ok=True)
        if name == 'ablations.yml':
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / 'corrmatch' / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_methods(tmp_path)
    assert str(tmp_path) in str(error.value)
