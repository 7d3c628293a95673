"""Perturbations as a user would write them: they see all maps of all views of a stream at once."""

from __future__ import annotations

from typing import Annotated

import pytest
import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number
from mmseg_semi.models.perturbations import BasePerturbation, FeatureDropout

from ..helpers import hooked
from ..steps import mixed_step, whole_step
from ..test_decode_heads.test_deeplabv3plus_head import THEIRS, segmentor_config


@MODELS.register_module()
class ComplementaryDropoutForTest(BasePerturbation):
    """UniMatch V2: what one strong view loses, the other one keeps, doubled.

    One draw m of 0 or 1 for each image and channel: view 1 times 2 m, view 2 times 2 - 2 m, in
    every map.
    """

    def __init__(self, prob: Annotated[float, Number(0, 1)] = 0.5) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        """See the class."""
        if views != 2:
            raise ValueError(f'two strong views complement each other, got {views}')
        images, channels = len(maps[0]) // 2, max(one.shape[1] for one in maps)
        keep = torch.rand(images, channels, 1, 1, device=maps[0].device) >= self.prob
        factor = torch.cat([2.0 * keep, 2.0 * ~keep])
        return [one * factor[:, : one.shape[1]].to(one.dtype) for one in maps]


V2 = dict(
    segmentor=segmentor_config(**THEIRS),
    teacher=dict(type='EMATeacher', momentum=0.996),
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.0)),
    streams=dict(strong=dict(perturbation=dict(type='ComplementaryDropoutForTest'))),
    losses=dict(strong=dict(type='PseudoLabelCrossEntropy', loss_weight=0.5)),
)


def test_dropout_of_two_strong_views_is_complementary_in_every_map(build, batch):
    """UniMatch V2 is a config; the decoder reads maps 0 and 3, of 16 and 128 channels."""
    model = hooked(build(**V2))
    assert [[one.name for one in several] for several in model.passes[0]] == [['labeled']]
    step = mixed_step(model, batch(unlabeled=((32, 32),) * 3))
    encoded = []
    model.segmentor.backbone.register_forward_hook(lambda _, __, maps: encoded.append(maps))
    model.run_pass(step, *model.passes[1])
    clean = encoded[0]
    first, second = (view.outputs.maps for view in step.streams['strong'])
    factors = []
    for level, one in enumerate(clean):
        ours = torch.cat([first[level], second[level]])
        if level not in (0, 3):
            assert torch.equal(ours, one), 'nobody reads it'
            continue
        alive = one.flatten(2).abs().sum(2) > 0
        factor = ours.flatten(2).abs().sum(2) / one.flatten(2).abs().sum(2)
        for image in range(3):
            both = alive[image] & alive[image + 3]
            assert both.sum() > 5
            pair = torch.stack([factor[image], factor[image + 3]])[:, both]
            torch.testing.assert_close(pair.sum(0), torch.full_like(pair[0], 2.0))
            assert {round(float(x), 4) for x in pair.flatten()} == {0.0, 2.0}
        factors.append(torch.where(alive, factor, torch.nan))
    low, high = factors
    shared = low.isfinite() & high[:, : low.shape[1]].isfinite()
    torch.testing.assert_close(low[shared], high[:, : low.shape[1]][shared])
    assert not torch.equal(low[0].nan_to_num(), low[1].nan_to_num()), 'each image for itself'


def test_unimatch_v2_trains_through_what_is_left(build, batch):
    model = hooked(build(**V2))
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    assert log['strong.loss'] > 0 and 'perturbed.loss' not in log
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('group', [None, 'all'])
def test_channels_are_dropped_before_the_classifier(build, batch, group):
    """Those of the strong views alone, also where labeled images share their pass."""
    dropout = dict(type='FeatureDropout', complementary=True, place='classifier')
    streams = dict(labeled=dict(group=group), strong=dict(group=group, perturbation=dropout))
    model = hooked(build(**{**V2, 'streams': streams}))
    step = mixed_step(model, batch(labeled=((32, 32),) * 2, unlabeled=((32, 32),) * 3))
    classifier, clean, taken, encoded = model.segmentor.decode_head.conv_seg, [], [], []
    model.segmentor.backbone.register_forward_hook(lambda _, __, maps: encoded.append(maps))
    classifier.register_forward_pre_hook(lambda _, given: clean.append(given[0]))
    classifier.register_forward_hook(lambda _, given, __: taken.append(given[0]))
    model.run_pass(step, *model.passes[-1])
    ((before,), (after,), (maps,)) = clean, taken, encoded
    others = 2 if group else 0
    assert len(before) == others + 6 and after[:others].equal(before[:others])
    factors = (after[others:].sum((2, 3)) / before[others:].sum((2, 3))).unflatten(0, (2, 3))
    alive = factors.isfinite().all(0)
    assert alive.sum() > 10
    torch.testing.assert_close(factors.sum(0)[alive], torch.full_like(factors[0], 2)[alive])
    assert {round(float(x), 3) for x in factors[:, alive].flatten()} == {0.0, 2.0}
    views = [*([step.labeled] if group else []), *(one.outputs for one in step.streams['strong'])]
    for level, one in enumerate(maps):
        assert one.equal(torch.cat([view.maps[level] for view in views])), 'as encoded'
        stores = {view.maps[level].untyped_storage().data_ptr() for view in views}
        assert stores == {one.untyped_storage().data_ptr()}, 'not copied'
    assert len(classifier._forward_pre_hooks) == 1, 'that of this test alone is left'


def test_a_decoder_without_a_classifier_is_refused(build):
    model = build(**V2)
    model.segmentor.decode_head.conv_seg = None
    with pytest.raises(ValueError, match=r"place is 'classifier', but .* set it to 'encoder'"):
        FeatureDropout(place='classifier').attach(model)


class Note(BasePerturbation):
    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        self.views, self.sizes = views, [len(one) for one in maps]
        return maps


def test_views_come_one_after_the_other(build, batch):
    notes = {name: Note() for name in ('weak', 'strong', 'second')}
    streams = {name: dict(perturbation=note) for name, note in notes.items()}
    streams['second'].update(images='strong', view=1)
    losses = {name: dict(type='PseudoLabelCrossEntropy', stream=name) for name in notes}
    whole_step(build(streams=streams, losses=losses), batch(unlabeled=((32, 32),) * 3))
    assert {name: (note.views, note.sizes) for name, note in notes.items()} == dict(
        weak=(1, [3]), strong=(2, [6]), second=(1, [3])
    )


@MODELS.register_module()
class FewerMapsForTest(BasePerturbation):
    """Returns one map less than it got."""

    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        """See the class."""
        return maps[:-1]


def test_maps_of_another_number_or_shape_are_refused(build, batch):
    streams = dict(perturbed=dict(features='weak', perturbation=dict(type='FewerMapsForTest')))
    message = (
        r'streams\.perturbed\.perturbation \(FewerMapsForTest\) must return maps of the shapes'
    )
    with pytest.raises(ValueError, match=message):
        whole_step(build(streams=streams), batch())
