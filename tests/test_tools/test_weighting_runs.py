"""Weighting Pseudo-Labels through the tools, from boxes in a file: trained, killed and resumed."""

from __future__ import annotations

import math
import re
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detection_files import write_detections
from tool_runs import (
    CONFIGS,
    TOOLS,
    differing,
    forget_logs,
    load_checkpoint,
    load_config,
    merged,
    small_settings,
    text_log,
    train_scalars,
    with_hooks,
)

WEIGHTING = 'weighting/weighting_unimatch_unet_digit-scenes-60.py'
HOOKS = dict(custom_hooks=[dict(type='DataCheckHook')])
SURE, SIZE = 0.2, 100
MODEL = dict(
    warmup_iters=2,
    refiners=dict(
        agreement=dict(min_confidence=SURE),
        weight=dict(k=2, bank=dict(size=SIZE, num_push=32, min_confidence=SURE, shared=False)),
    ),
)
BANK = 'refiners.weight.bank.'


def boxes_of(mask: np.ndarray) -> list[tuple[int, tuple[int, int, int, int]]]:
    """One box (x, y, width, height) around all pixels of a class."""
    found = []
    for number in sorted(set(mask.flatten().tolist()) - {0, 255}):
        rows, columns = np.nonzero(mask == number)
        x, y = int(columns.min()), int(rows.min())
        size = int(columns.max()) + 1 - x, int(rows.max()) + 1 - y
        found.append((number, (x, y, *size)))
    return found


@pytest.fixture(scope='module')
def detections(digit_root, tmp_path_factory) -> dict[str, str]:
    """Files of boxes around the digits of the unlabeled images, some of a low score."""
    sizes, found = {}, []
    for path in sorted((digit_root / 'images/unlabeled').iterdir()):
        mask = cv2.imread(str(digit_root / 'audit/unlabeled' / path.name), cv2.IMREAD_UNCHANGED)
        sizes[path.name] = mask.shape
        for number, box in boxes_of(mask):
            found.append((path.name, number - 1, box, 0.3 if len(found) % 5 == 4 else 0.9))
    assert len(sizes) == 13 and len(found) > 20
    classes = load_config(CONFIGS / WEIGHTING).classes[1:]  # the background has no boxes
    return write_detections(tmp_path_factory.mktemp('boxes'), sizes, classes, found)


def write_small(path: Path, data_root: Path, files: dict[str, str], **changes: Any) -> Path:
    """A small child of the shipped config that reads these boxes."""
    settings = merged(small_settings(WEIGHTING, data_root), merged(dict(model=MODEL), HOOKS))
    unlabeled = dict(dataset=dict(unlabeled=dict(detections=dict(files, score_thr=0.5))))
    settings = merged(settings, dict(train_dataloader=unlabeled))
    lines = [f'_base_ = {str(CONFIGS / WEIGHTING)!r}']
    lines += [f'{key} = {value!r}' for key, value in merged(settings, changes).items()]
    path.write_text('\n'.join(lines) + '\n')
    return path


@pytest.fixture(scope='module')
def train_small(plain_server, digit_root, detections, tmp_path_factory):
    """Function that trains it where mmdet is not installed; returns its folder and output."""

    def train_small(*args: Any, work_dir: Path | None = None, code: int = 0, **changes: Any):
        folder = tmp_path_factory.mktemp('weighting')
        config = write_small(folder / 'config.py', digit_root, detections, **changes)
        work_dir = work_dir or folder / 'work'
        done = plain_server.run(
            *(TOOLS / 'train.py', config, '--work-dir', work_dir, *args),
            code=code,
            unblock=['mmseg_semi'],
        )
        return work_dir, done.output

    return train_small


@pytest.fixture(scope='module')
def weighting_run(train_small):
    return train_small()[0]


def test_it_trains_without_mmdet(weighting_run):
    values = train_scalars(weighting_run)
    assert list(values) == list(range(1, 9))
    for step, value in values.items():
        assert all(math.isfinite(one) for one in value.values())
        assert ('weight.mean' in value) == ('strong.loss' in value) == (step > 2)
    later = [values[step] for step in range(3, 9)]
    assert later[0]['weight.mean'] == 1 and later[0]['weight.prototypes'] == 0
    base = load_config(CONFIGS / WEIGHTING).model.refiners.weight.get('base_weight', 0)
    for value in later[1:]:
        assert base < value['weight.mean'] < base + 1 and 1 <= value['weight.prototypes'] <= 6
        assert value['strong.loss'] > 0 and value['perturbed.loss'] > 0
    assert all(0 <= value['agreement.reliable'] < 1 for value in later)
    assert any(value['agreement.reliable'] > 0 for value in later)
    log = text_log(weighting_run)
    assert re.search(r'INFO - \S+found.bbox.json: \d\d boxes of score >= 0.5 on \d+ of 13', log)


def test_the_bank_is_in_the_checkpoint_of_its_iteration(weighting_run):
    states = [load_checkpoint(weighting_run / f'iter_{i}.pth')['state_dict'] for i in (2, 4, 6, 8)]
    counts = [state[f'{BANK}counts'] for state in states]
    assert not counts[0].any(), 'warm-up'
    assert counts[1].sum() < counts[2].sum() < counts[3].sum()
    assert all(((one >= 0) & (one <= SIZE)).all() for one in counts)
    assert counts[3][0].any() and counts[3][1].any() and counts[3].max() == SIZE
    assert not counts[3][1, 0], 'the background has no boxes'
    values = train_scalars(weighting_run)
    for i, one in zip((4, 6), counts[1:]):  # the next iteration weighs by it
        assert values[i + 1]['weight.prototypes'] == one[0].bool().sum()
    features = states[-1][f'{BANK}features']
    empty = torch.arange(SIZE) >= counts[3][..., None]
    assert features.shape == (2, 6, SIZE, 4) and not features[empty].any()


def test_killed_and_resumed_equals_uninterrupted(train_small, weighting_run, tmp_path):
    """Killed after iteration 7, resumed from 6, bank and all."""
    work_dir = tmp_path / 'work'
    killer = with_hooks(HOOKS, dict(type='KillHook', iteration=7))
    train_small(work_dir=work_dir, code=-signal.SIGKILL, **killer)
    assert list(train_scalars(work_dir)) == [1, 2, 3, 4, 5, 6, 7]
    forget_logs(work_dir)
    output = train_small('--resume', work_dir=work_dir)[1]
    assert 'iter_6.pth' in output
    wanted, got = train_scalars(weighting_run), train_scalars(work_dir)
    assert got == {step: wanted[step] for step in (7, 8)}
    first, second = (load_checkpoint(d / 'iter_8.pth') for d in (weighting_run, work_dir))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert first[part] and differing(first[part], second[part], part) == []
    middle = load_checkpoint(work_dir / 'iter_6.pth')['state_dict']
    for name in ('features', 'counts', 'heads'):
        moved = not torch.equal(middle[BANK + name], first['state_dict'][BANK + name])
        assert moved, f'{name} does not move, so that the test could not fail'


def test_boxes_of_other_images_stop_the_run(train_small, detections, digit_root, tmp_path):
    """Before anything is trained, with the name of the key."""
    found = [('elsewhere.png', 1, (0, 0, 9, 9), 0.9)]
    classes = load_config(CONFIGS / WEIGHTING).classes
    other = write_detections(tmp_path, {'elsewhere.png': (64, 64)}, classes, found)
    data = dict(dataset=dict(unlabeled=dict(detections=other)))
    work_dir, output = train_small(code=1, train_dataloader=data)
    assert f'LoadDetections.images: {tmp_path}/listed.json lacks 13 of 13 unlabeled' in output
    assert train_scalars(work_dir) == {}
