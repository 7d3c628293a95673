"""What components of a user may return: anything else is refused with their config key."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from mmseg.registry import MODELS

from mmseg_semi.models.heads import BaseSemiHead
from mmseg_semi.models.losses import BaseSemiLoss
from mmseg_semi.models.mixers import BaseLabeledMixer, BaseMixer
from mmseg_semi.models.perturbations import BasePerturbation
from mmseg_semi.models.refiners import BaseRefiner
from mmseg_semi.structures import View

from ..helpers import run_step


class Returns:
    """Returns what it is told to, or what it makes of its arguments."""

    def __init__(self, result: Any = None) -> None:
        super().__init__()
        self.result = result

    def forward(self, *args: Any) -> Any:
        return self.result(*args) if callable(self.result) else self.result


@MODELS.register_module()
class RefinerForTest(Returns, BaseRefiner):
    stage = 'selection'

    def forward(self, pseudo: Any, outputs: Any, step: Any) -> Any:
        return super().forward(pseudo, outputs, step)


@MODELS.register_module()
class MixerForTest(Returns, BaseMixer):
    pass


@MODELS.register_module()
class LabeledMixerForTest(Returns, BaseLabeledMixer):
    pass


@MODELS.register_module()
class PerturbationForTest(Returns, BasePerturbation):
    pass


@MODELS.register_module()
class LossForTest(Returns, BaseSemiLoss):
    stream = 'strong'
    loss_weight = 1.0


@MODELS.register_module()
class HeadForTest(Returns, BaseSemiHead):
    pass


@MODELS.register_module()
class SupervisedHeadForTest(HeadForTest):
    def supervised(self, step: Any) -> Any:
        return super().forward(step)

    def forward(self, step: Any) -> dict[str, Any]:
        return {}


REFINER = ('model.refiners.mine (RefinerForTest)', 'a PseudoLabel')
MIXER = ('model.mixer (MixerForTest)', 'a View with an image and a pseudo-label')
PAIR = ('model.labeled_mixer (LabeledMixerForTest)', 'two tensors, images and truth')
MAPS = ('model.streams.perturbed.perturbation (PerturbationForTest)', 'a list of feature maps')
LOSS = ('model.losses.mine (LossForTest)', 'a 0-dim tensor')
HEAD = ('model.heads.mine (HeadForTest)', 'a dict of tensors of one number')
SUPERVISED = ('model.heads.mine (SupervisedHeadForTest)', 'a dict of tensors of one number')
PLACES = {
    REFINER: lambda own: dict(refiners=dict(mine=own)),
    MIXER: lambda own: dict(mixer=own),
    PAIR: lambda own: dict(labeled_mixer=own),
    MAPS: lambda own: dict(streams=dict(perturbed=dict(features='weak', perturbation=own))),
    LOSS: lambda own: dict(losses=dict(mine=own), streams=None),
    HEAD: lambda own: dict(heads=dict(mine=own)),
    SUPERVISED: lambda own: dict(heads=dict(mine=own)),
}


def build_with(build: Any, place: tuple[str, str], result: Any) -> Any:
    kind = re.search(r'\((\w+)\)', place[0])[1]
    return build(**PLACES[place](dict(type=kind, result=result)))


@pytest.mark.parametrize(
    ('place', 'result', 'got'),
    [
        (REFINER, None, 'None'),
        (REFINER, lambda pseudo, *_: pseudo.label, 'a tensor of shape (2, 32, 32)'),
        (MIXER, lambda images, pseudo, step: (images, pseudo), 'a tuple of a tensor of shape'),
        (MIXER, lambda images, *_: View(images), 'a View'),
        (PAIR, lambda images, truth, step: images, 'a tensor of shape (2, 3, 32, 32)'),
        (PAIR, lambda images, truth, step: (images,), 'a tuple of a tensor of shape'),
        (MAPS, None, 'None'),
        (MAPS, lambda maps, views: maps[0], 'a tensor of shape'),
        (LOSS, 0.0, 'a float'),
        (LOSS, torch.zeros(1), 'a tensor of shape (1,)'),
        (HEAD, None, 'None'),
        (HEAD, torch.zeros(()), 'a tensor of shape ()'),
        (HEAD, dict(loss=torch.zeros(2)), 'a dict of loss: a tensor of shape (2,)'),
        (HEAD, dict(loss=0.0), 'a dict of loss: a float'),
        (SUPERVISED, None, 'None'),
    ],
)
def test_another_result_is_refused(build, batch, place, result, got):
    message = f'{place[0]} must return {place[1]}, got {got}'
    with pytest.raises(TypeError, match=re.escape(message)):
        run_step(build_with(build, place, result), batch())


@pytest.mark.parametrize(
    ('place', 'result'),
    [
        (REFINER, lambda pseudo, *_: pseudo),
        (MIXER, lambda images, pseudo, step: View(images, pseudo)),
        (PAIR, lambda images, truth, step: (images, truth)),
        (MAPS, lambda maps, views: tuple(maps)),
        (LOSS, lambda view: view.outputs.logits.mean()),
        (HEAD, dict(loss=torch.ones(()))),
        (SUPERVISED, dict(loss=torch.ones(()))),
    ],
)
def test_the_right_result_is_taken(build, batch, place, result):
    _, losses = run_step(build_with(build, place, result), batch())
    assert all(value.isfinite().all() for value in losses.values())
    if place in (LOSS, HEAD, SUPERVISED):
        assert 'mine.loss' in losses
