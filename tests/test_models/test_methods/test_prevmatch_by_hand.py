"""Steps of PrevMatch's preset by hand, and which weights it keeps.

Images and network are those of ``test_unimatch_by_hand``. Earlier weights give each class's logit
to the next class, so that image 0's sure pixels are of class 1 for them and image 1's of class 2.
"""

from __future__ import annotations

import math

import pytest
import torch

from mmseg_semi.models.heads import PreviousGuidance

from ..by_hand import preset, take_step
from .test_unimatch_by_hand import (  # noqa: F401
    LABELED,
    STRONG,
    check_mixed,
    drop_first_channel,
    images,
    labeled,
    perturbed_loss,
)

SHIFTED = -math.log(0.02)  # of a sure pixel, which the student gives 0.02 for the next class


def shift_classes(model):
    """Let the weights give each class's logit to the next class."""
    weight = model.segmentor.decode_head.conv_seg.weight.data
    weight.copy_(torch.eye(3).roll(1, 0)[..., None, None])


def guided(monkeypatch, **changes):
    """The preset with one set of earlier weights, which shift the classes."""
    monkeypatch.setattr(PreviousGuidance, 'reset', lambda self: None)
    model = preset('prevmatch', **{'heads.guidance.size': 2, **changes})
    own = {name: value.clone() for name, value in model.segmentor.state_dict().items()}
    shift_classes(model)
    model.heads['guidance'].keep()
    model.segmentor.load_state_dict(own)
    return model


def unsupervised():
    """L_std = 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp."""
    return STRONG / 2 + perturbed_loss() / 2


def guided_perturbed_loss():
    """softmax(0, 2 log .02, 2 log .02) of class 1, softmax(0, 2 log .96, 2 log .02) of class 2."""
    own = -math.log(0.02**2 / (1 + 2 * 0.02**2))
    other = -math.log(0.02**2 / (1 + 0.96**2 + 0.02**2))
    return (8 * own + 16 * other) / 32


@pytest.mark.parametrize(('iteration', 'weight'), [(4, 0.5), (8, 1.0), (9, 1.0), (12, 0.5)])
def test_the_losses_with_earlier_weights(
    monkeypatch,
    drop_first_channel,  # noqa: F811
    iteration,
    weight,
):
    """L = (L_x + L_std + lambda L_prev) / (2 + lambda); 4 epochs of 4 iterations."""
    model = guided(monkeypatch)
    progress = (iteration, 16, 4)
    step, losses, total = take_step(model, *labeled(), images(), views=2, progress=progress)
    check_mixed(step, 2)
    strong, perturbed = 24 / 32 * SHIFTED, guided_perturbed_loss()
    wanted = weight * (strong / 2 + perturbed / 2) / (2 + weight)
    assert float(losses['guidance.loss']) == pytest.approx(wanted, rel=1e-7)
    whole = (LABELED + unsupervised()) / (2 + weight) + wanted
    assert float(total) == pytest.approx(whole, rel=1e-7)
    assert float(losses['guidance.weight']) == weight
    # The student's own labels are as without them.
    assert step.pseudo.label[0].unique().tolist() == [0]


@pytest.mark.parametrize(('iteration', 'known'), [(0, True), (8, False)])
def test_without_guidance_the_step_is_unimatchs(
    monkeypatch,
    drop_first_channel,  # noqa: F811
    iteration,
    known,
):
    """At the start lambda is 0; before any weights are kept nothing guides."""
    model = guided(monkeypatch)
    if not known:
        model.heads['guidance'].snapshots.clear()
    _, losses, total = take_step(model, *labeled(), images(), views=2, progress=(iteration, 16, 4))
    assert 'guidance.loss' not in losses
    assert float(total) == pytest.approx((LABELED + unsupervised()) / 2, rel=1e-7)


def test_each_image_weighs_as_much_as_it_is_sure(monkeypatch, drop_first_channel):  # noqa: F811
    """Cityscapes: no threshold, and the mean confidence of each (mixed) image as weight."""
    model = guided(
        monkeypatch,
        **{'heads.guidance.threshold': 0.0, 'heads.guidance.by_mean_confidence': True},
    )
    _, losses, _ = take_step(model, *labeled(), images(), views=2, progress=(8, 16, 4))
    unsure = -math.log(0.3)  # the unsure pixels' next class
    # Mixed image 0: 12 sure pixels and 4 unsure ones; mixed image 1: 12 and 4 as well.
    mean = (12 * 0.96 + 4 * 0.5) / 16
    strong = mean * (24 * SHIFTED + 8 * unsure) / 32
    # Not mixed: image 0 has 8 and 8, image 1 is sure. Without class 0 the unsure pixels are
    # softmax(0, 2 log .3, 2 log .2).
    other = -math.log(0.02**2 / (1 + 0.96**2 + 0.02**2))
    own = -math.log(0.02**2 / (1 + 2 * 0.02**2))
    half = -math.log(0.3**2 / (1 + 0.3**2 + 0.2**2))
    perturbed = ((0.96 + 0.5) / 2 * (8 * own + 8 * half) + 0.96 * 16 * other) / 32
    wanted = (strong / 2 + perturbed / 2) / 3
    assert float(losses['guidance.loss']) == pytest.approx(wanted, rel=1e-7)


def test_several_earlier_weights_give_one_mean_of_logits(monkeypatch):
    """One to three of them, each set at most once, in shares that sum to 1."""
    model = guided(monkeypatch, **{'heads.guidance.size': 4})
    head = model.heads['guidance']
    weight = model.segmentor.decode_head.conv_seg.weight.data
    for factor in (10.0, 100.0, 1000.0):
        weight.copy_(factor * torch.eye(3)[..., None, None])
        head.keep()
    torch.manual_seed(0)
    one = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[:, None, None].expand(1, 3, 4, 4)
    # Of class 0 the weights give 0 (shifted), 10, 100, 1000; the shifted ones give class 1 1.
    found = torch.stack([head.label(one)[0, :, 0, 0] for _ in range(4000)])
    counts = torch.bincount(torch.stack([found[:, 1] > 0, found[:, 0] > 0], 1).sum(1))
    assert counts.sum() == 4000 and (found[:, 2] == 0).all() and (found[:, 1] <= 1).all()
    # A single set in a third of the steps, and each as often as the others.
    single = [(found == value).all(1).sum().item() for value in one_of_each(found)]
    assert single == pytest.approx([4000 / 12] * 4, rel=0.2)
    # The mean over all draws is the mean of all sets.
    assert found[:, 1].mean().item() == pytest.approx(1 / 4, abs=0.02)
    assert found[:, 0].mean().item() == pytest.approx(1110 / 4, rel=0.06)


def one_of_each(found):
    zero = torch.zeros_like(found[0])
    first = zero.clone()
    first[1] = 1
    rest = []
    for value in (10.0, 100.0, 1000.0):
        one = zero.clone()
        one[0] = value
        rest.append(one)
    return [first, *rest]


def test_mixed_precision_sees_the_weights_of_each_set(monkeypatch):
    """Casts of weights are not kept from one set to the next."""
    model = guided(monkeypatch)
    head = model.heads['guidance']
    head.keep()  # those that give the input
    model.float()
    monkeypatch.setattr(torch, 'randint', lambda *args: torch.tensor(2))
    one = torch.tensor([4.0, 0.0, 0.0])[:, None, None].expand(1, 3, 4, 4)
    with torch.autocast('cpu', torch.bfloat16):
        found = head.label(one)[0, :, 0, 0]
    assert found.dtype == torch.float32 and found[0] > 0 and found[1] > 0
    assert found.sum().item() == pytest.approx(4, rel=0.01)


def test_no_checkpoint_has_the_network_that_labels(monkeypatch):
    model = guided(monkeypatch)
    names = [name for name in model.state_dict() if name.startswith('heads.')]
    assert names == ['heads.guidance.best'] + [
        f'heads.guidance.snapshots.{part}' for part in ('count', '0', '1')
    ]
    moved = {value.dtype for value in model.float().heads['guidance'].network.state_dict().values()}
    assert moved == {torch.float32}, 'it moves with the model'


def test_weights_are_kept_at_equal_distances_after_the_warm_up(monkeypatch):
    model = preset('prevmatch', **{'heads.guidance.size': 2})
    model.warmup_iters = 4
    head = model.heads['guidance']
    kept = []
    monkeypatch.setattr(head, 'keep', lambda: kept.append(model.progress[0]))
    for iteration in range(20):
        model.set_progress(iteration, 20, 5)
        head.update_state()
    # 16 iterations in 2 * size parts.
    assert kept == [7, 11, 15, 19]
    kept.clear()
    head.every = 1.2
    for iteration in range(20):
        model.set_progress(iteration, 20, 5)
        head.update_state()
    assert kept == [9, 15]


def test_a_run_too_short_for_every_is_refused():
    model = preset('prevmatch', **{'heads.guidance.every': 5})
    with pytest.raises(
        ValueError, match=r'heads\.guidance\.every=5 is 20 iterations, and the run has 16 .* 4 '
    ):
        take_step(model, *labeled(), images(), views=2, progress=(0, 16, 4))
    with pytest.raises(RuntimeError, match='needs to know the length of the run'):
        take_step(model, *labeled(), images(), views=2, progress=(0, 16, 0))


def test_the_best_weights_on_the_validation_images_are_kept_on_demand():
    model = preset('prevmatch', **{'heads.guidance.push': 'best'})
    head = model.heads['guidance']
    sizes = []
    for score in (10.0, 9.0, 10.0, 11.0):
        head.validated(dict(mIoU=score))
        sizes.append(len(head.snapshots))
    assert sizes == [1, 1, 1, 2] and float(head.best) == 11
    model.set_progress(15, 16, 4)
    head.update_state()
    assert len(head.snapshots) == 2
    with pytest.raises(ValueError, match=r"guidance\.metric is 'mIoU', which .* it gives aAcc"):
        head.validated(dict(aAcc=1.0))
    again = preset('prevmatch', **{'heads.guidance.push': 'best'})
    again.load_state_dict(model.state_dict())
    assert float(again.heads['guidance'].best) == 11 and len(again.heads['guidance'].snapshots) == 2


def test_it_needs_a_loss_on_unlabeled_images():
    changes = {'losses': None, 'heads.rank': dict(type='AgentRankHead', tap='encoder')}
    with pytest.raises(ValueError, match=r'heads\.guidance: .* model\.losses has none'):
        preset('prevmatch', **changes)
