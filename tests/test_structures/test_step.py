from dataclasses import fields

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_semi.structures import Features, Mix, PseudoLabel, SegOutputs, SemiStep, View


def pseudo_label(batch=2, **changes):
    torch.manual_seed(0)
    valid = torch.ones(batch, 4, 4, dtype=torch.bool)
    return PseudoLabel.from_logits(torch.randn(batch, 3, 4, 4), valid).update(**changes)


def test_from_logits():
    logits = torch.tensor([[[[2.0, -1.0]], [[0.0, 3.0]]]], requires_grad=True)  # (1, 2, 1, 2)
    valid = torch.tensor([[[True, False]]])
    pseudo = PseudoLabel.from_logits(logits, valid)
    assert pseudo.label.tolist() == [[[0, 1]]]
    expected = torch.tensor([2.0, 4.0]).sigmoid()
    torch.testing.assert_close(pseudo.confidence.flatten(), expected)
    torch.testing.assert_close(pseudo.prob.sum(1), torch.ones(1, 1, 2))
    assert pseudo.selected.tolist() == [[[True, False]]]
    assert not pseudo.logits.requires_grad and not pseudo.prob.requires_grad
    pseudo.selected[:] = False
    assert pseudo.valid.any(), 'selected is a copy of valid'
    with pytest.raises(ValueError, match='input size'):
        PseudoLabel.from_logits(logits, valid[:, :, :1])


def test_mixing_leaves_no_field_behind():
    everything = pseudo_label(
        weight=torch.rand(2, 4, 4),
        reliable=torch.rand(2, 4, 4) > 0.5,
        extras=dict(boxes=torch.randint(0, 255, (2, 3, 4, 4), dtype=torch.uint8)),
    )
    # Each image is a constant 0 or 1 in every field, so a mixed pixel shows where it is from.
    constant = everything.map(
        lambda t: torch.arange(2).view(2, *[1] * (t.dim() - 1)).expand_as(t).to(t.dtype)
    )
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1:3, 2:] = True
    mixed = constant.map(Mix(mask, torch.tensor([1, 0])))
    expected = torch.stack([mask[0], ~mask[1]])
    checked = 0
    for item in fields(PseudoLabel):
        value = getattr(mixed, item.name)
        for tensor in value.values() if isinstance(value, dict) else [value]:
            planes = tensor.bool() if tensor.dim() == 3 else tensor.bool().all(1)
            assert torch.equal(planes, expected), item.name
            checked += 1
    assert checked == len(fields(PseudoLabel))


def test_used_is_selected_and_valid():
    pseudo = pseudo_label(1)
    pseudo.valid[:, 0] = False
    pseudo.selected[:, :, 0] = False
    expected = torch.ones(1, 4, 4, dtype=torch.bool)
    expected[:, 0] = False
    expected[:, :, 0] = False
    assert torch.equal(pseudo.used, expected)


def test_seg_outputs_upsample_once_and_split():
    raw = torch.randn(3, 2, 4, 4, dtype=torch.bfloat16)
    outputs = SegOutputs(
        [raw], (8, 8), False, [torch.randn(3, 5, 4, 4)], dict(a=torch.ones(3, 1, 2, 2))
    )
    assert outputs.logits.shape == (3, 2, 8, 8) and outputs.logits.dtype == torch.float32
    assert outputs.logits is outputs.logits
    first, second = outputs.split([1, 2])
    assert len(first) == 1 and len(second) == 2
    torch.testing.assert_close(second.logits, outputs.logits[1:])
    assert torch.equal(second.maps[0], outputs.maps[0][1:])
    assert second.features['a'].shape[0] == 2
    with pytest.raises(ValueError, match='sum'):
        outputs.split([1, 1])


# ------------------------------------------------------------------------------------- features
def test_features_are_split_and_joined_with_their_taps():
    maps = [torch.randn(5, 2, 4, 4), torch.randn(5, 3, 2, 2)]
    whole = Features(maps, (8, 8), dict(encoder=maps[1]))
    first, second = whole.split([2, 3])
    assert (len(first), len(second)) == (2, 3) and second.size == (8, 8)
    assert torch.equal(second.maps[0], maps[0][2:])
    assert torch.equal(first.taps['encoder'], maps[1][:2])
    joined = Features.join([second, first])
    for ours, theirs in zip(joined.maps, maps):
        assert torch.equal(ours, torch.cat([theirs[2:], theirs[:2]]))
    assert torch.equal(joined.taps['encoder'], joined.maps[1])
    assert Features.join([whole]) is whole


# ----------------------------------------------------------------------------------------- views
def test_pixels_of_a_view_that_belong_to_the_batch():
    pseudo, foreign = pseudo_label(), torch.zeros(2, 4, 4, dtype=torch.bool)
    pseudo.valid[0, 0], foreign[0, :, 1] = False, True
    mix = Mix(torch.zeros(2, 4, 4, dtype=torch.bool), torch.tensor([1, 0]))
    assert torch.equal(View(pseudo=pseudo).own_valid, pseudo.valid)
    assert torch.equal(View(pseudo=pseudo, mix=mix).own_valid, pseudo.valid)
    mix.foreign = foreign
    assert torch.equal(View(pseudo=pseudo, mix=mix).own_valid, pseudo.valid & ~foreign)


def test_another_label_is_mixed_as_the_view_and_unknown_where_something_was_pasted():
    other, foreign = pseudo_label(), torch.zeros(2, 4, 4, dtype=torch.bool)
    other.label[0], other.label[1], foreign[0, :, 1] = 1, 2, True
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    plain = View(pseudo=pseudo_label())
    assert plain.labeled_by(other).pseudo is other and plain.pseudo is not other
    mix = Mix(mask, torch.tensor([1, 0]))
    assert View(mix=mix).labeled_by(other).pseudo.label[:, 0].tolist() == [
        [2, 2, 1, 1],
        [1, 1, 2, 2],
    ]
    mix.foreign = foreign
    found = View(mix=mix).labeled_by(other).pseudo
    assert torch.equal(found.valid, other.valid & ~foreign) and found.valid.any()


def test_features_are_mixed_as_the_view():
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    view = View(mix=Mix(mask, torch.tensor([1, 0])))
    features = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert torch.equal(
        view.mix_features(features, False)[:, 0], torch.stack([mask[0], ~mask[1]]) * 1.0
    )
    assert View().mix_features(features, False) is features


# ------------------------------------------------------------------------------------------ step
def bare_step(**fields):
    images = torch.zeros(2, 3, 4, 4)
    return SemiStep(images, [], images, [images], torch.ones(2, 4, 4).bool(), [], **fields)


def test_figures_for_the_log():
    step = bare_step()
    step.log('select.threshold', torch.tensor(0.5, dtype=torch.float64, requires_grad=True))
    step.log('count', 3)
    assert {name: float(value) for name, value in step.figures.items()} == {
        'select.threshold': 0.5,
        'count': 3.0,
    }
    for value in step.figures.values():
        assert value.dtype == torch.float32 and value.dim() == 0 and not value.requires_grad


@pytest.mark.parametrize('name', ['loss', 'head.loss_ce', 'glossy'])
def test_a_figure_must_not_be_called_a_loss(name):
    """mmengine sums every value whose name contains ``loss`` and trains it."""
    step = bare_step()
    with pytest.raises(ValueError, match=f"'{name}'.*would be trained"):
        step.log(name, 1.0)
    assert not step.figures


def test_what_is_computed_once_in_a_step():
    step, calls = bare_step(), []

    def compute():
        calls.append(len(calls))
        return calls[-1]

    assert [step.once('a', compute), step.once('a', compute), step.once(('a', 1), compute)] == [
        *(0, 0, 1)
    ]
    assert bare_step().once('a', compute) == 2, 'another step computes anew'
    step.once('none', lambda: None)
    assert step.once('none', lambda: 5) is None


def test_outputs_of_the_labeled_and_weak_images():
    step, outputs = bare_step(), SegOutputs([torch.zeros(2, 3, 4, 4)], (4, 4), False)
    assert step.labeled is None and step.weak is None
    step.streams = dict(labeled=[View(outputs=outputs)], weak=[View()])
    assert step.labeled is outputs and step.weak is None


def test_the_share_of_the_run_that_remains():
    assert bare_step(iteration=25, max_iters=100).remaining('a') == 0.75
    assert bare_step(iteration=120, max_iters=100).remaining('a') == 0.0
    with pytest.raises(RuntimeError, match=r'model.refiners.a.anneal needs .*SemiTrainLoop'):
        bare_step().remaining('model.refiners.a.anneal')


def test_logits_that_are_first_read_without_gradient_train_all_the_same():
    stage = torch.ones(1, 2, 3, 3, requires_grad=True)
    outputs = SegOutputs([stage], (6, 6), False)
    with torch.no_grad():
        pseudo = PseudoLabel.from_logits(outputs.logits, torch.ones(1, 6, 6, dtype=torch.bool))
    assert not pseudo.logits.requires_grad
    outputs.logits.sum().backward()
    assert stage.grad.sum() == pytest.approx(36 * 2)


def test_what_one_of_two_pseudo_labels_lacks():
    first, second = pseudo_label(weight=torch.full((2, 4, 4), 0.5)), pseudo_label()
    second = second.update(reliable=torch.ones(2, 4, 4, dtype=torch.bool))
    both = first.combine(second, lambda one, two: torch.stack([one, two]))
    assert both.weight.unique(sorted=False).numel() == 2
    assert (both.weight[0] == 0.5).all() and (both.weight[1] == 1).all()
    assert not both.reliable[0].any() and both.reliable[1].all()
    joined = first.join(pseudo_label(3))
    assert joined.weight.shape == joined.label.shape == (5, 4, 4)
    assert joined.weight[:2].eq(0.5).all() and joined.weight[2:].eq(1).all()
    neither = first.update(weight=None).combine(pseudo_label(), lambda one, two: one)
    assert neither.weight is None and neither.reliable is None


def test_what_is_trained_with_is_what_the_last_refiner_says():
    raw, refined, mixed = (pseudo_label(batch) for batch in (1, 2, 3))
    fields = dict.fromkeys(
        ['labeled_images', 'labeled_samples', 'weak_images', 'strong_images', 'valid']
    )
    step = SemiStep(**fields, unlabeled_samples=[], pseudo=raw)
    assert step.final is raw
    step.refined.update(select=refined, after=mixed)
    assert step.final is mixed


def test_labeled_pixels_that_are_no_padding():
    """255 in the image is one that nobody knows; where a crop was padded in a color, it may not."""
    truth = torch.zeros(2, 3, 4, dtype=torch.int64)
    truth[:, 0, 0] = truth[:, :, 3] = 255
    metas = [dict(img_shape=(3, 3)), dict(img_shape=(3, 4), padded=True)]
    samples = [
        SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=one[None]))
        for meta, one in zip(metas, truth)
    ]
    fields = dict.fromkeys(['weak_images', 'strong_images', 'valid'])
    step = SemiStep(
        **fields,
        labeled_images=torch.zeros(2, 3, 3, 4),
        labeled_samples=samples,
        unlabeled_samples=[],
    )
    first, second = step.labeled_valid
    assert first[:, :3].all() and not first[:, 3].any()
    assert torch.equal(second, truth[1] != 255)
