"""What is kept of the same unlabeled images through the training, and that it touches nothing."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, MODELS
from tool_runs import CONFIGS, EMA, UNIMATCH, differing, load_checkpoint, with_hooks, write_config

from mmseg_semi.datasets.collate import semi_collate
from mmseg_semi.datasets.semi_dataset import SampleKey
from mmseg_semi.engine.hooks import PseudoLabelProgressHook, pseudo_label_progress_hook
from mmseg_semi.engine.hooks.pseudo_label_progress_hook import arrays_of, label_batch
from mmseg_semi.structures import PseudoLabel
from mmseg_semi.utils.config import load_config

OFF = dict(default_hooks=dict(pseudo_labels=None))


def kept(run: Any) -> list[str]:
    return sorted(path.name for path in run.work_dir.glob('*/pseudo_labels/*'))


def arrays(run: Any, name: str) -> dict[str, np.ndarray]:
    (path,) = run.work_dir.glob(f'*/pseudo_labels/{name}.npz')
    with np.load(path) as found:
        return dict(found)


def test_every_validation_keeps_the_same_images(ema_run, digit_root):
    assert kept(ema_run) == ['images.npz', 'step_6.npz', 'step_8.npz']
    images = arrays(ema_run, 'images')
    assert [Path(one).stem for one in images['paths']] == [f'00000{i}' for i in (0, 3, 6, 9)]
    assert images['classes'].tolist()[:2] == ['background', 'zero']
    assert images['image0'].shape == (64, 64, 3)
    first, second = (arrays(ema_run, f'step_{i}') for i in (6, 8))
    assert first['label'].shape == first['light'].shape == (4, 64, 64)
    assert any(not np.array_equal(first[key], second[key]) for key in ('label', 'light'))
    used = second['light'] > 0
    assert 0 < used.mean() < 1 and np.array_equal(second['refined'][used], second['label'][used])
    assert len(list(ema_run.work_dir.glob('*/vis_data/vis_image/fixed_images_*.png'))) == 2


def test_the_labels_are_those_of_the_saved_teacher(ema_run):
    cfg = load_config(ema_run.config)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model, dataset = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    model.load_state_dict(load_checkpoint(ema_run.checkpoint)['state_dict'])
    found = arrays(ema_run, 'step_8')
    for i, place in enumerate((0, 3, 6, 9)):
        image = dataset[SampleKey('unlabeled', place, 0)]['weak']
        shown = image.permute(1, 2, 0).numpy()[..., ::-1]
        assert np.array_equal(arrays(ema_run, 'images')[f'image{i}'], shown)
        pixels = model.data_preprocessor.prepare_images([image], (64, 64))
        with torch.no_grad():
            prob = model.teacher.network.encode_decode(pixels, [dict(img_shape=(64, 64))]).softmax(
                dim=1
            )[0]
        assert np.array_equal(found['label'][i], prob.argmax(0).numpy())
        assert np.array_equal(found['light'][i] > 0, (prob.amax(0) >= 0.6).numpy())


@pytest.mark.parametrize('teacher', [{}, EMA], ids=['student', 'teacher'])
def test_training_is_the_same_without(teacher, train, unimatch_run, ema_run):
    off = train(**teacher, **OFF)
    assert kept(off) == []
    run = ema_run if teacher else unimatch_run
    assert len(kept(run)) == 3
    first, second = (load_checkpoint(one.checkpoint) for one in (run, off))
    for part in ('state_dict', 'optimizer'):
        assert first[part] and differing(first[part], second[part], part) == []


def test_a_resumed_run_keeps_the_same(train, ema_run):
    part = train(UNIMATCH, '--resume', ema_run.work_dir / 'iter_4.pth', **EMA)
    assert kept(part) == kept(ema_run)
    for name in ('images', 'step_6', 'step_8'):
        ours, theirs = arrays(part, name), arrays(ema_run, name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_supervised_training_has_none(supervised_run):
    assert kept(supervised_run) == []


METHODS = ('unimatch/unimatch', 'corrmatch/corrmatch', 's4mc/s4mc_fixmatch', 'rankmatch/rankmatch')


@pytest.mark.parametrize('method', METHODS)
def test_neither_model_nor_generators_move(method, digit_root, tmp_path):
    config = tmp_path / 'config.py'
    cfg = Config.fromfile(write_config(config, UNIMATCH, digit_root))
    base = Config.fromfile(CONFIGS / f'{method}_unet_digit-scenes-60.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model, dataset = MODELS.build(base.model), DATASETS.build(cfg.train_dataloader.dataset)
    model.init_weights()
    model.train()
    keys = [SampleKey('labeled', 0, 0), SampleKey('unlabeled', 1, 0), SampleKey('unlabeled', 2, 0)]
    batch = semi_collate([dataset[key] for key in keys])
    before = deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    progress = dict(iteration=3, max_iters=8, iters_per_epoch=4)
    first = arrays_of(label_batch(model, batch, **progress))
    second = arrays_of(label_batch(model, batch, **progress))
    assert first and all(np.array_equal(first[key], second[key]) for key in first)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1]) and states[2] == random.getstate()
    assert modes == [module.training for module in model.modules()]
    assert differing(before, model.state_dict(), '') == []


def test_regions_before_mixing_are_seen_where_the_student_labels(digit_root, tmp_path):
    config = tmp_path / 'config.py'
    cfg = Config.fromfile(write_config(config, UNIMATCH, digit_root))
    base = Config.fromfile(CONFIGS / 'corrmatch/corrmatch_unet_digit-scenes-60.py')
    base.model.refiners.regions.after_mixing = False
    with DefaultScope.overwrite_default_scope('mmseg'):
        model, dataset = MODELS.build(base.model), DATASETS.build(cfg.train_dataloader.dataset)
    keys = [SampleKey('labeled', 0, 0), SampleKey('unlabeled', 1, 0)]
    batch = semi_collate([dataset[key] for key in keys])
    seen = label_batch(model, batch, iteration=3, max_iters=8, iters_per_epoch=4)
    assert list(seen) == ['raw', 'select', 'regions']


def test_all_ranks_stop_where_one_has_failed(monkeypatch):
    """The first one may have failed to write; the others would wait for its figures."""
    hook = PseudoLabelProgressHook()
    hook._on = True
    monkeypatch.setattr(hook, '_look', lambda runner: None)
    hook.after_val_epoch(None)
    assert hook._on
    monkeypatch.setattr(pseudo_label_progress_hook, 'all_reduce', lambda one: one.add_(1))
    hook.after_val_epoch(None)
    assert not hook._on


def test_padding_weights_and_what_is_not_selected():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).view(1, 2, 2, 1).repeat(1, 1, 1, 3)
    valid = torch.ones(1, 2, 3, dtype=torch.bool)
    valid[..., 2] = False
    raw = PseudoLabel.from_logits(logits, valid)
    assert arrays_of(dict(raw=raw)).keys() == {'label'}
    chosen = valid.clone()
    chosen[0, 0, 0] = False
    weight = torch.full((1, 2, 3), 0.5)
    found = arrays_of(dict(raw=raw, select=raw.update(selected=chosen, weight=weight)))
    assert found['label'].tolist() == found['refined'].tolist() == [[[0, 0, 255], [1, 1, 255]]]
    assert found['light'].tolist() == [[[0, 128, 0], [128, 128, 0]]]


def test_a_failure_does_not_end_the_training(train):
    changes = with_hooks(dict(model=dict(refiners=dict(failing=dict(type='TrainingRefiner')))))
    run = train(**changes)
    assert run.checkpoint.is_file() and kept(run) == []
    assert run.output.count('default_hooks.pseudo_labels draws nothing more') == 1
    assert 'RuntimeError: this refiner works in training alone' in run.output


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='PseudoLabelProgressHook.num_images must be a whole num'):
        PseudoLabelProgressHook(0)
