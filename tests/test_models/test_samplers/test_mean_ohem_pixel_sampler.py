"""Hard example mining: which pixels are kept, and that the loss is their mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_semi.models import MeanOHEMPixelSampler

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
CE = dict(type='CrossEntropyLoss', avg_non_ignore=True)


def make_head(thresh=0.7, min_kept=5, losses=CE):
    return FCNHead(
        in_channels=2,
        channels=2,
        num_classes=3,
        num_convs=0,
        concat_input=False,
        loss_decode=losses,
        sampler=dict(type='MeanOHEMPixelSampler', thresh=thresh, min_kept=min_kept),
    )


def samples_of(labels):
    out = []
    for label in labels:
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=label[None])
        out.append(sample)
    return out


def reference(logits, labels, thresh, min_kept):
    """Mean cross entropy of the kept pixels and the kept pixels, one pixel at a time."""
    pixels = [
        (float(logits[b, :, y, x].softmax(0)[labels[b, y, x]]), b, y, x)
        for b, y, x in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist()
        if labels[b, y, x] != 255
    ]
    limit = float('inf')
    if min_kept < len(pixels):
        limit = max(thresh, sorted(pixels)[min_kept - 1][0])
    kept = [(b, y, x) for p, b, y, x in pixels if p <= limit]
    losses = [-logits[b, :, y, x].log_softmax(0)[labels[b, y, x]] for b, y, x in kept]
    return sum(losses) / len(losses), kept


def random_case(seed, ignored=0.2, size=(2, 5, 7)):
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], 3, *size[1:], generator=source) * 2
    labels = torch.randint(0, 3, size, generator=source)
    labels[torch.rand(size, generator=source) < ignored] = 255
    return logits.requires_grad_(), labels


@pytest.mark.parametrize('avg_non_ignore', [True, False])
@pytest.mark.parametrize('thresh, min_kept', [(0.05, 7), (0.5, 3), (0.9, 10), (0.0, 1), (0.2, 500)])
def test_the_loss_is_the_mean_over_the_kept_pixels(thresh, min_kept, avg_non_ignore):
    """Value and gradient; mmseg's own OHEM differs in both."""
    head = make_head(thresh, min_kept, dict(CE, avg_non_ignore=avg_non_ignore, loss_weight=0.5))
    logits, labels = random_case(min_kept)
    wanted, kept = reference(logits, labels, thresh, min_kept)
    (gradient,) = torch.autograd.grad(0.5 * wanted, logits)
    found = head.loss_by_feat(logits, samples_of(labels))['loss_ce']
    torch.testing.assert_close(found, 0.5 * wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient)
    weights = head.sampler.sample(logits, labels[:, None])
    assert sorted(map(tuple, weights.nonzero().tolist())) == kept and not weights.requires_grad


def certain(*probs):
    """Logits (1, 3, 1, n) of pixels of class 0 with these probabilities."""
    prob = torch.tensor([[p, (1 - p) / 2, (1 - p) / 2] for p in probs])
    return prob.log().T[None, :, None]


def kept_of(head, logits, labels=None):
    labels = torch.zeros(1, 1, logits.shape[-1]).long() if labels is None else labels
    return head.sampler.sample(logits, labels[:, None])[0, 0].tolist()


def test_pixels_at_the_threshold_are_kept_and_ties_too():
    logits = certain(0.1, 0.25, 0.25, 0.25, 0.5, 0.75)
    # The second smallest is 0.25: at most that are four pixels, each weighs 6 / 4.
    assert kept_of(make_head(0.0, 2), logits) == [1.5, 1.5, 1.5, 1.5, 0, 0]
    assert kept_of(make_head(0.0, 1), logits) == [6, 0, 0, 0, 0, 0]
    exact = float(logits.softmax(1)[0, 0, 0, 4])
    assert kept_of(make_head(exact, 2), logits) == pytest.approx([1.2] * 5 + [0])
    assert kept_of(make_head(0.6, 6), logits) == [1] * 6, 'as many as must be kept'


def test_fewer_valid_pixels_than_must_be_kept_are_all_kept():
    logits = certain(0.1, 0.9, 0.99, 0.999, 0.2)
    labels = torch.tensor([[[0, 0, 0, 255, 255]]])
    for min_kept in (3, 4, 5, 100):
        assert kept_of(make_head(0.05, min_kept), logits, labels) == [1, 1, 1, 0, 0]
    # Two must be kept: 0.1 and 0.9; of three valid ones that is 3 / 2 each.
    assert kept_of(make_head(0.05, 2), logits, labels) == [1.5, 1.5, 0, 0, 0]
    over_all = make_head(0.05, 2, dict(CE, avg_non_ignore=False))
    assert kept_of(over_all, logits, labels) == [2.5, 2.5, 0, 0, 0]


@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_no_valid_pixel_gives_zero_with_a_gradient(avg_non_ignore):
    head = make_head(0.7, 3, dict(CE, avg_non_ignore=avg_non_ignore))
    logits, labels = random_case(0)
    loss = head.loss_by_feat(logits, samples_of(torch.full_like(labels, 255)))['loss_ce']
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_pixels_are_counted_over_the_batch():
    """The hard image has all kept pixels; mmseg's sampler keeps min_kept an image."""
    logits = torch.cat([certain(0.1, 0.2, 0.15), certain(0.8, 0.9, 0.85)])
    labels = torch.zeros(2, 1, 3).long()
    weights = make_head(0.01, 3).sampler.sample(logits, labels[:, None])
    assert weights[0].tolist() == [[2, 2, 2]] and not weights[1].any()


def test_half_precision_logits_are_weighed_in_float32():
    logits, labels = random_case(4, size=(2, 20, 20))  # many tie in half precision
    half = logits.detach().bfloat16()
    head = make_head(0.0, 100)
    weights = head.sampler.sample(half, labels[:, None])
    assert weights.dtype == torch.float32
    assert torch.equal(weights, head.sampler.sample(half.float(), labels[:, None]))


def test_the_sort_of_a_device_without_a_fast_selection_gives_the_same(monkeypatch):
    from mmseg_semi.models.samplers import mean_ohem_pixel_sampler as module

    logits, labels = random_case(5)
    head = make_head(0.1, 8)
    wanted = head.sampler.sample(logits, labels[:, None])

    class Elsewhere(torch.Tensor):
        device = torch.device('cuda')

    original = module._kth_smallest
    calls = []

    def elsewhere(values, k):
        calls.append(k)
        found = original(values.as_subclass(Elsewhere), k)
        return torch.as_tensor(found).as_subclass(torch.Tensor)

    monkeypatch.setattr(module, '_kth_smallest', elsewhere)
    monkeypatch.setattr(torch.Tensor, 'kthvalue', None)
    assert torch.equal(head.sampler.sample(logits, labels[:, None]), wanted) and calls == [8]


@pytest.mark.parametrize(
    'losses',
    [
        dict(type='DiceLoss'),
        dict(type='CrossEntropyLoss', use_sigmoid=True),
        dict(CE, class_weight=[1.0, 1.0, 2.0]),
        dict(CE, reduction='sum'),
        [CE, dict(type='DiceLoss', loss_name='loss_dice')],
    ],
)
def test_losses_with_another_denominator_are_refused(losses):
    with pytest.raises(ValueError, match='MeanOHEMPixelSampler takes the mean.*OHEMPixelSampler'):
        make_head(losses=losses)


def test_two_losses_must_divide_alike():
    other = dict(CE, loss_name='loss_other', loss_weight=0.4)
    head = make_head(0.1, 7, [CE, other])
    logits, labels = random_case(6)
    wanted, _ = reference(logits, labels, 0.1, 7)
    found = head.loss_by_feat(logits, samples_of(labels))
    torch.testing.assert_close(found['loss_ce'], wanted)
    torch.testing.assert_close(found['loss_other'], 0.4 * wanted)
    with pytest.raises(ValueError, match='differ in avg_non_ignore.*True in all'):
        make_head(losses=[CE, dict(other, avg_non_ignore=False)])


@pytest.mark.parametrize(
    'wrong', [dict(thresh=1.5), dict(thresh='0.7'), dict(min_kept=0), dict(min_kept=2.5)]
)
def test_wrong_arguments_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf'decode_head.sampler.{name} \(MeanOHEM'):
        make_head(**wrong)


def test_the_semi_supervised_step_uses_it_in_both_heads(build, batch):
    """The decode head's loss and that of the correlation head on labeled images."""
    from ..conftest import SEGMENTOR

    sampler = dict(type='MeanOHEMPixelSampler', thresh=0.2, min_kept=50)
    head = dict(SEGMENTOR['decode_head'], sampler=sampler)
    correlation = dict(type='CorrelationHead', labeled_weight=0.25, dropout=0.0)
    model = build(
        segmentor=dict(SEGMENTOR, decode_head=head),
        heads=dict(correlation=dict(correlation, in_channels=4)),
    )
    data = model.data_preprocessor(batch(), True)
    for sample in data['data_samples']['labeled']:
        sample.gt_sem_seg.data[:, :, :5] = 255
    step = model.begin_step(**data)
    model.run_pass(step, [model.streams['labeled'], model.streams['weak']])
    losses = model.supervised(step)
    labels = torch.cat([sample.gt_sem_seg.data for sample in step.labeled_samples])
    wanted, kept = reference(step.labeled.logits, labels, 0.2, 50)
    assert 50 <= len(kept) < (labels != 255).sum() / 2
    torch.testing.assert_close(losses['decode.loss_ce'], model.supervised_weight * wanted)

    part = model.heads['correlation']
    z = part._propagated(step.labeled, part._first_pass(step, 'labeled'))
    z = F.interpolate(z, labels.shape[-2:], mode='bilinear', align_corners=False)
    wanted, _ = reference(z, labels, 0.2, 50)
    torch.testing.assert_close(losses['correlation.labeled.loss_ce'], 0.25 * wanted)


def test_it_is_registered_for_configs():
    head = MODELS.build(
        dict(
            type='DeepLabV3PlusHead',
            in_channels=(4, 8),
            channels=4,
            num_classes=3,
            sampler=dict(type='MeanOHEMPixelSampler'),
        )
    )
    sampler = head.sampler
    assert isinstance(sampler, MeanOHEMPixelSampler)
    assert (sampler.thresh, sampler.min_kept, sampler.over_valid) == (0.7, 200000, False)
