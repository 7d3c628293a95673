"""What is counted of pseudo-labels against hidden truth, by hand, and the tool on small runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from tool_runs import REPO, SUPERVISED, TOOLS, UNIMATCH, write_config

from mmseg_semi.analysis import pseudo_labels as tool
from mmseg_semi.analysis.pseudo_label_counts import (
    GradientCounts,
    LabelCounts,
    PseudoLabelCounts,
    RefinerCounts,
)
from mmseg_semi.engine.resuming import SETTINGS_KEY
from mmseg_semi.models import BaseSemiLoss
from mmseg_semi.structures import Mix, PseudoLabel, View
from mmseg_semi.utils.config import load_config

TOOL = TOOLS / 'analysis_tools' / 'pseudo_labels.py'
NAMES = ('sky', 'road', 'car')
TRUTH = torch.tensor([[[0, 0, 0, 1], [1, 1, 2, 255]]])
LABEL = torch.tensor([[[0, 0, 1, 1], [1, 0, 1, 2]]])
USED = torch.tensor([[[True, True, True, True], [False, True, False, True]]])
WEIGHT = torch.tensor([[[0.5, 0.5, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]]])


def pseudo_of(label: torch.Tensor, selected: torch.Tensor, **more: Any) -> PseudoLabel:
    valid = torch.ones_like(selected)
    return PseudoLabel(None, None, label, label.float(), valid, selected, **more)


# ------------------------------------------------------------------------------ counted by hand
def test_figures_of_a_label() -> None:
    counts = LabelCounts(3)
    counts.add(LABEL, TRUTH, TRUTH != 255, USED, WEIGHT)
    found = counts.figures(NAMES)
    classes = found.pop('per_class')
    # Seven known pixels, four right; five selected, three of them right: 0, 0 and the first 1.
    assert found == dict(
        pixels=7,
        selected=5 / 7,
        accuracy=3 / 5,
        accuracy_of_all=4 / 7,
        mean_weight=5.0 / 5,
        weighted_accuracy=3.0 / 5.0,
    )
    assert classes == dict(
        sky=dict(pixels=3, selected=1.0, precision=2 / 3, recall=2 / 3),
        road=dict(pixels=3, selected=2 / 3, precision=1 / 2, recall=1 / 3),
        car=dict(pixels=1, selected=0.0, precision=None, recall=0.0),
    )


def test_batches_add_up_and_nothing_is_no_share() -> None:
    counts = LabelCounts(3)
    nothing = counts.figures(NAMES)
    assert nothing.pop('per_class')['sky'] == dict(
        pixels=0, selected=None, precision=None, recall=None
    )
    assert set(nothing.values()) == {0, None}
    for _ in range(3):
        counts.add(LABEL, TRUTH, TRUTH != 255, USED)
    found = counts.figures(NAMES)
    assert (found['pixels'], found['accuracy'], found['mean_weight']) == (21, 0.6, 1.0)


def test_what_a_refiner_changed() -> None:
    after_label = torch.tensor([[[0, 1, 0, 1], [1, 0, 2, 1]]])
    after_used = torch.tensor([[[True, True, True, False], [True, False, True, True]]])
    reliable = torch.tensor([[[True, True, False, False], [False, False, False, True]]])
    before, after = pseudo_of(LABEL, USED), pseudo_of(after_label, after_used, reliable=reliable)
    counts = RefinerCounts(3)
    counts.add(before, after, TRUTH, TRUTH != 255)
    found = counts.figures(NAMES)
    assert found['before']['accuracy'] == 3 / 5 and found['after']['accuracy'] == 4 / 5
    assert found['changes'] == dict(
        # The second pixel was right and is wrong, the third the other way round.
        relabeled=dict(pixels=2, share=2 / 7, right_before=1 / 2, right_after=1 / 2),
        # The first of the second row, right as it was, and the third, with another label.
        added=dict(pixels=2, share=2 / 7, right_before=1 / 2, right_after=1.0),
        removed=dict(pixels=2, share=2 / 7, right_before=1 / 2, right_after=1 / 2),
        reliable=dict(pixels=2, share=2 / 7, right_before=1.0, right_after=1 / 2),
    )


def test_pixels_outside_of_what_a_refiner_sees_do_not_count() -> None:
    before, after = pseudo_of(LABEL, USED), pseudo_of(LABEL, ~USED)
    after.valid[:, 0] = False
    counts = RefinerCounts(3)
    counts.add(before, after, TRUTH, TRUTH != 255)
    found = counts.figures(NAMES)
    assert found['before']['pixels'] == found['after']['pixels'] == 3
    assert found['changes']['removed']['pixels'] == 1 and found['changes']['added']['pixels'] == 2


class PlainLoss(BaseSemiLoss):
    """Trains with every selected pixel."""

    def forward(self, view: View) -> torch.Tensor:
        return view.pseudo.label.float().mean()


def test_truth_of_a_mixed_view_is_mixed_and_pasted_labeled_pixels_do_not_count() -> None:
    truth = torch.tensor([[[0, 0, 0]], [[1, 1, 255]]], dtype=torch.uint8)
    mask = torch.tensor([[[False, True, True]], [[False, False, False]]])
    foreign = torch.tensor([[[False, False, False]], [[True, False, False]]])
    mix = Mix(mask, torch.tensor([1, 0]), foreign)
    label = mix(torch.tensor([[[0, 0, 0]], [[1, 2, 2]]]))
    assert label.tolist() == [[[0, 2, 2]], [[1, 2, 2]]]
    pseudo = pseudo_of(label, torch.ones_like(mask))
    model = SimpleNamespace(
        refiners={},
        losses=dict(strong=PlainLoss(), of_labeled=PlainLoss('labeled')),
        streams=dict(
            strong=SimpleNamespace(source='strong'), labeled=SimpleNamespace(source='labeled')
        ),
    )
    step = SimpleNamespace(
        raw_pseudo=pseudo_of(torch.zeros_like(label), torch.ones_like(mask)),
        refined={},
        streams=dict(strong=[View(pseudo=pseudo, mix=mix)]),
    )
    counts = PseudoLabelCounts(model, NAMES)
    counts.add(step, truth)
    found = counts.figures()
    assert found['raw']['pixels'] == 5 and found['raw']['accuracy'] == 3 / 5
    assert list(found['losses']) == ['strong']
    # First image: its own 0 (right), the partner's 1 (labeled 2), unknown. Second: pasted, 1
    # (labeled 2), unknown.
    strong = found['losses']['strong']
    assert (strong['pixels'], strong['accuracy'], strong['stream']) == (3, 1 / 3, 'strong')
    assert strong['per_class']['road']['pixels'] == 2


def test_gradients_of_each_term() -> None:
    weights = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    unused = torch.nn.Parameter(torch.ones(3))
    segmentor = torch.nn.Module()
    segmentor.weights, segmentor.unused = weights, unused
    model = SimpleNamespace(
        segmentor=segmentor, losses=dict(strong=0, nothing=0), heads=dict(rank=0)
    )
    own = torch.nn.Parameter(torch.tensor(2.0))
    counts = GradientCounts(model)
    for factor in (1.0, 3.0):
        counts.add(
            {
                'decode.loss_ce': 2 * factor * weights[0],
                'aux.loss_ce': [factor * weights[:1], torch.zeros(2)],
                'decode.acc_seg': torch.tensor(50.0),
                'strong.loss': 3 * weights[0] + 4 * weights[1],
                'nothing.loss': torch.tensor(0.0),
                'rank.loss': own * 2,
            }
        )
    found = counts.figures()
    assert list(found) == [
        'decode.loss_ce',
        'aux.loss_ce',
        'strong.loss',
        'nothing.loss',
        'rank.loss',
    ]
    assert found['decode.loss_ce'] == dict(loss=4.0, norm=4.0, share=4 / 11, cosine=1.0)
    assert found['aux.loss_ce'] == dict(loss=2.0, norm=2.0, share=2 / 11, cosine=1.0)
    assert found['strong.loss'] == dict(loss=7.0, norm=5.0, share=5 / 11, cosine=0.6)
    assert found['nothing.loss'] == dict(loss=0.0, norm=0.0, share=0.0, cosine=None)
    assert found['rank.loss'] == dict(loss=4.0, norm=0.0, share=0.0, cosine=None)


# ------------------------------------------------------------------------------- steps of a run
METHODS = {
    'fixmatch': {},
    'corrmatch': dict(select=None, chosen=dict(type='EMAThreshold', initial=0.4)),
    's4mc': dict(select=None, chosen=dict(type='QuantileThreshold', alpha=0.4)),
    'ael': {},
    'u2pl': dict(select=None, chosen=dict(type='QuantileThreshold', score='entropy', alpha=0.4)),
    'augseg': {},
    'rankmatch': {},
}


class PredictedTruth:
    """Says that the teacher is right everywhere."""

    def __init__(self, model: Any) -> None:
        self.label = torch.zeros(0)
        model.add_observer(self.look)

    def look(self, step: Any) -> None:
        self.label = step.raw_pseudo.label.clone()

    def load_batch(self, unlabeled: Any, size: Any) -> torch.Tensor:
        assert tuple(size) == tuple(self.label.shape[-2:])
        return self.label.to(torch.uint8)


@pytest.mark.parametrize('method', METHODS)
def test_a_teacher_that_is_always_right_is_found_so(method, digit_root, tmp_path):
    """Truth goes through the mixing as the labels do, and nothing of the run moves."""
    base = f'{method}/{method}_unet_digit-scenes-60.py'
    changes = dict(refiners=METHODS[method])
    if method == 'corrmatch':
        changes['heads'] = dict(correlation=dict(in_channels=8))
    path = write_config(tmp_path / 'config.py', base, digit_root, model=changes)
    cfg = load_config(str(path))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(iter=5)), tmp_path / 'a.pth')
    runner = tool.start_run(cfg, str(tmp_path / 'a.pth'), str(tmp_path / 'work'), 3)
    model = runner.model
    assert model.progress == (5, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = tool.measure(runner, PredictedTruth(model), 5, 1)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    assert (found['images'], found['raw']['pixels']) == (5, 5 * 64 * 64)
    assert found['raw']['accuracy'] == found['raw']['accuracy_of_all'] == 1.0
    assert found['refiners'].keys() == dict(model.refiners.items()).keys()
    for one in found['refiners'].values():
        relabeled = one['changes']['relabeled']
        assert relabeled['right_after'] in (None, 0.0) and relabeled['right_before'] in (None, 1.0)
    for one in found['losses'].values():
        assert 0 < one['pixels'] <= found['raw']['pixels'] * 2
        if method not in ('corrmatch', 's4mc'):  # whose refiners change labels
            assert one['accuracy_of_all'] == 1.0
    gradients = found['gradients']
    assert sum(one['share'] for one in gradients.values()) == pytest.approx(1)
    assert {f'{name}.loss' for name in found['losses']} <= gradients.keys()
    assert gradients['decode.loss_ce']['cosine'] == pytest.approx(1)
    assert 'selected' in tool.report(found)


# --------------------------------------------------------------------------------- the tool
def measure(server: Any, run: Any, folder: Path, truth: Path, *args: Any, code: int = 0) -> Any:
    out = folder / 'found.json'
    command = (run.config, run.checkpoint, '--truth', truth, '--out', out, *args)
    done = server.run(TOOL, *command, code=code, cwd=folder)
    assert 'Traceback' not in done.output
    return json.loads(out.read_text()) if code == 0 else done.output


@pytest.fixture(scope='module')
def measured(server, unimatch_run, digit_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('measured')
    return measure(server, unimatch_run, folder, digit_root / 'audit' / 'unlabeled')


def test_the_tool_measures_every_unlabeled_image_once(measured):
    assert (measured['images'], measured['iteration']) == (13, 7)
    assert measured['raw']['selected'] == 1.0 and 0 < measured['raw']['accuracy'] < 1
    select = measured['refiners']['select']
    assert select['type'] == 'ConfidenceThreshold' and select['before'] == measured['raw']
    removed = select['changes']['removed']
    assert removed['share'] == pytest.approx(1 - select['after']['selected'])
    for one in (measured['raw'], select['after'], *measured['losses'].values()):
        classes = one['per_class'].values()
        assert sum(c['pixels'] for c in classes) == one['pixels'] > 0
        right = sum(c['pixels'] * c['recall'] for c in classes)
        assert right == pytest.approx(one['accuracy'] * one['selected'] * one['pixels'])
    assert measured['losses'].keys() == {'strong', 'perturbed'}
    assert measured['gradients'].keys() == {'decode.loss_ce', 'strong.loss', 'perturbed.loss'}


def test_a_config_of_another_schedule_is_said(server, unimatch_run, digit_root, tmp_path):
    """Thresholds and weights may depend on how far a run is."""
    command = (unimatch_run.config, unimatch_run.checkpoint, '--images', '2', '--gradients', '0')
    command += ('--truth', digit_root / 'audit' / 'unlabeled')
    done = server.run(TOOL, *command, cwd=tmp_path)
    assert 'the checkpoint was trained with' not in done.output
    done = server.run(TOOL, *command, '--cfg-options', 'train_cfg.max_iters=90', cwd=tmp_path)
    assert 'the checkpoint was trained with train_cfg.max_iters=8 (now 90); its step' in done.output


def test_a_checkpoint_of_the_labels_alone_is_said(server, unimatch_run, digit_root, tmp_path):
    loaded = torch.load(unimatch_run.checkpoint, map_location='cpu', weights_only=False)
    settings = loaded['meta'][SETTINGS_KEY]
    settings['model.warmup_iters'] = settings['train_cfg.max_iters']
    checkpoint = tmp_path / 'best_mIoU_iter_8.pth'
    torch.save(loaded, checkpoint)
    command = (unimatch_run.config, checkpoint, '--images', '2', '--gradients', '0')
    done = server.run(TOOL, *command, '--truth', digit_root / 'audit' / 'unlabeled', cwd=tmp_path)
    assert f'{checkpoint} was trained on labels alone to its end' in done.output
    assert 'name with_unlabeled_best_*.pth' in done.output
    assert 'name the config in its work folder' not in done.output
    del loaded['meta']  # nothing is known of its training
    torch.save(loaded, checkpoint)
    done = server.run(TOOL, *command, '--truth', digit_root / 'audit' / 'unlabeled', cwd=tmp_path)
    assert 'was trained' not in done.output


def test_truth_of_0_and_255_is_said(server, unimatch_run, digit_root, tmp_path):
    masks = tmp_path / 'masks'
    shutil.copytree(digit_root / 'audit' / 'unlabeled', masks)
    more = ('--images', '2', '--gradients', '0')
    command = (TOOL, unimatch_run.config, unimatch_run.checkpoint, '--truth', masks, *more)
    done = server.run(*command, cwd=tmp_path)
    assert 'are 255' not in done.output
    unknown = known = 0
    for path in masks.glob('*.png'):
        found = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0).astype(np.uint8)
        cv2.imwrite(str(path), found * 255)
        unknown, known = unknown + found.sum(), known + (found == 0).sum()
    done = server.run(*command, cwd=tmp_path)
    share = f'{unknown / (unknown + known):.1%}'
    assert f'--truth: {share} of the pixels of the first masks are 255, which is' in done.output
    assert 'and all others are class 0: where 255 is a class, write its number' in done.output


def without_truth(found: dict[str, Any]) -> list[Any]:
    """What can be said without any truth."""
    rows = [found['raw'], *(one['after'] for one in found['refiners'].values())]
    rows += found['losses'].values()
    return [[one['selected'], one['pixels']] for one in rows] + [found['gradients']]


def test_the_truth_does_not_leak_into_the_steps(
    server, unimatch_run, digit_root, measured, tmp_path
):
    """With other masks the pseudo-labels, the losses and their gradients are the same."""
    masks = tmp_path / 'masks'
    shutil.copytree(digit_root / 'audit' / 'unlabeled', masks)
    for path in masks.glob('*.png'):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(mask == 255, 255, (mask + 1) % 6).astype(np.uint8))
    checkpoint = unimatch_run.checkpoint.read_bytes()
    found = measure(server, unimatch_run, tmp_path, masks)
    assert without_truth(found) == without_truth(measured)
    assert found['raw']['accuracy'] != measured['raw']['accuracy']
    assert unimatch_run.checkpoint.read_bytes() == checkpoint
    again = measure(server, unimatch_run, tmp_path, digit_root / 'audit' / 'unlabeled')
    assert again == measured


def test_nothing_that_trains_can_read_the_truth():
    """Only hooks that look, and tools, import the reader of the true masks."""
    readers = {
        str(path.relative_to(REPO / 'mmseg_semi'))
        for path in (REPO / 'mmseg_semi').rglob('*.py')
        if 'AuditMasks(' in path.read_text(encoding='utf-8')
    }
    assert readers == {
        'analysis/detector_agreement.py',
        'analysis/pseudo_labels.py',
        'engine/hooks/pseudo_label_observer.py',
    }


# ----------------------------------------------------------------------------------- failures
def test_an_image_without_truth_is_named(server, unimatch_run, digit_root, tmp_path):
    masks = tmp_path / 'masks'
    shutil.copytree(digit_root / 'audit' / 'unlabeled', masks)
    gone = sorted(masks.glob('*.png'))[3]
    gone.unlink()
    output = measure(server, unimatch_run, tmp_path, masks, code=1)
    assert f'--truth: 1 of 13 unlabeled images have no mask there: {gone}' in output
    output = measure(server, unimatch_run, tmp_path, tmp_path / 'nowhere', code=1)
    assert f'--truth: there is no folder {tmp_path / "nowhere"}' in output


def test_truth_of_another_size_is_named(server, unimatch_run, digit_root, tmp_path):
    masks = tmp_path / 'masks'
    shutil.copytree(digit_root / 'audit' / 'unlabeled', masks)
    wrong = sorted(masks.glob('*.png'))[0]
    cv2.imwrite(str(wrong), np.zeros((64, 60), np.uint8))
    output = measure(server, unimatch_run, tmp_path, masks, code=1)
    assert f'audit mask {wrong} has 60 x 64 pixels, its image' in output
    assert not (tmp_path / 'found.json').exists()


def test_a_supervised_config_is_refused(server, supervised_run, digit_root, tmp_path):
    output = measure(server, supervised_run, tmp_path, digit_root / 'audit', code=1)
    assert "not a 'SemiSegmentor': give a config of a method" in output


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (
            dict(train_cfg=dict(type='IterBasedTrainLoop')),
            'train_cfg.type is IterBasedTrainLoop',
        ),
        (
            dict(train_dataloader=dict(sampler=dict(_delete_=True, type='InfiniteSampler'))),
            'train_dataloader.sampler.type is InfiniteSampler',
        ),
        (
            dict(model=dict(segmentor=dict(decode_head=dict(num_classes=5)))),
            'classes has 6 names and the model 5 classes',
        ),
    ],
    ids=['loop', 'sampler', 'classes'],
)
def test_a_run_whose_steps_are_not_known_is_refused(
    changes, said, server, unimatch_run, digit_root, tmp_path
):
    config = write_config(tmp_path / 'config.py', UNIMATCH, digit_root, **changes)
    run = SimpleNamespace(config=config, checkpoint=unimatch_run.checkpoint)
    output = measure(server, run, tmp_path, digit_root / 'audit' / 'unlabeled', code=1)
    assert said in output


def test_a_checkpoint_of_another_model_is_refused(server, ema_run, digit_root, tmp_path):
    config = write_config(
        tmp_path / 'c.py', SUPERVISED.replace('supervised', 'fixmatch'), digit_root
    )
    run = SimpleNamespace(config=config, checkpoint=ema_run.checkpoint)
    output = measure(server, run, tmp_path, digit_root / 'audit' / 'unlabeled', code=1)
    assert f'{ema_run.checkpoint} is no checkpoint of this config' in output


@pytest.mark.parametrize(
    'option', [('--images', '0'), ('--gradients', '-1'), ('--seed', '-1'), ('--out', 'a.txt')]
)
def test_options_outside_their_values_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['config.py', 'a.pth', '--truth', 'masks', *option])
    assert option[0] in capsys.readouterr().err


def test_the_folder_of_masks_is_required(capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['config.py', 'a.pth'])
    assert '--truth' in capsys.readouterr().err
