"""The Mean Teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import Number, OneOf
from mmseg_semi.structures import SegOutputs

from .base_teacher import BaseTeacher, forward_mode

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

BUFFER_MODES = ('ema', 'copy')
FORWARD_MODES = ('eval', 'train')


@MODELS.register_module()
class EMATeacher(BaseTeacher):
    r"""Exponential moving average of the student.

    Mean Teacher (Tarvainen and Valpola, NeurIPS 2017, Eq. 1): after each update of the student
    :math:`\theta_T \leftarrow m_t \theta_T + (1 - m_t) \theta_S` with
    :math:`m_t = \min(1 - 1 / (t + 1), m)`, t counted from 0, so the teacher is the student after
    the first update. ``MeanTeacherHook`` says when; a run that is not resumed begins with a copy
    of the student. Modules of other components that asked for it move likewise.

    Args:
        momentum: m, in [0, 1).
        buffers: ``'ema'`` moves floating buffers (BatchNorm statistics) like parameters,
            ``'copy'`` takes the student's.
        mode: ``'train'`` normalizes the images it labels by their own statistics and applies
            dropout, as some methods do; its state is not touched by that.
        warm_up: Whether to limit the momentum by ``1 - 1 / (t + 1)``.

    Raises:
        ValueError: An argument outside its values.
    """

    hooks = (dict(type='MeanTeacherHook'),)
    starts_as_student = True

    def __init__(
        self,
        momentum: Annotated[float, Number(0, 1, below=True)] = 0.99,
        buffers: Annotated[str, OneOf(*BUFFER_MODES)] = 'ema',
        mode: Annotated[str, OneOf(*FORWARD_MODES)] = 'eval',
        warm_up: Annotated[bool, OneOf(True, False)] = True,
    ) -> None:
        super().__init__()
        self.momentum, self.buffer_mode, self.mode, self.warm_up = momentum, buffers, mode, warm_up
        self._model: tuple[Any, ...] = ()
        self._followers: list[tuple[nn.Module, nn.Module]] = []

    def attach(self, model: SemiSegmentor) -> None:
        """Build a network like ``model.segmentor``."""
        self._model = (model,)  # in a tuple, so that it is not a submodule
        self.set_network(MODELS.build(model.segmentor_cfg))
        self.reset()

    def label(self, images: Tensor) -> SegOutputs:
        """Run the network on normalized images (B, 3, H, W)."""
        with forward_mode(self.network, self.mode):
            return self._model[0].run(images, self.network)

    def follow(self, own: nn.Module, student: nn.Module) -> None:
        """Move ``own`` after ``student``, as the network."""
        self._followers.append((own.requires_grad_(False).eval(), student))

    def _pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        yield self.network, self._model[0].segmentor
        yield from self._followers

    def reset(self) -> None:
        """Make an exact copy of the student."""
        for own, student in self._pairs():
            check_same_state(student, own)
            update_teacher(own, student, momentum=0.0, buffers='copy')

    def momentum_at(self, update: int) -> float:
        """Momentum of the move after the optimizer's ``update`` (from 0)."""
        return min(1 - 1 / (update + 1), self.momentum) if self.warm_up else self.momentum

    def move(self, update: int) -> None:
        """Move towards the student."""
        for own, student in self._pairs():
            update_teacher(own, student, self.momentum_at(update), self.buffer_mode)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'momentum={self.momentum}, buffers={self.buffer_mode!r}, mode={self.mode!r}, '
            f'warm_up={self.warm_up}'
        )


def check_same_state(student: nn.Module, teacher: nn.Module) -> None:
    """Raise ValueError when names or shapes of parameters and buffers differ."""
    ours = {name: tuple(value.shape) for name, value in student.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in teacher.state_dict().items()}
    names = ours.keys() | theirs.keys()
    differing = sorted(name for name in names if ours.get(name) != theirs.get(name))
    if differing:
        raise ValueError(
            f'teacher and student differ in {len(differing)} parameters or buffers, first: '
            f'{differing[:5]}; the teacher must have the architecture of model.segmentor'
        )


@torch.no_grad()
def update_teacher(
    teacher: nn.Module, student: nn.Module, momentum: float, buffers: str = 'ema'
) -> None:
    """Move the teacher towards the student, by name.

    Args:
        teacher: Changed in place.
        student: Read only.
        momentum: In [0, 1]; 0 copies.
        buffers: See ``EMATeacher``. Integer buffers are always copied.

    Raises:
        ValueError: ``buffers`` is unknown.
    """
    OneOf(*BUFFER_MODES).check('buffers', buffers)
    source: dict[str, Tensor] = {**dict(student.named_parameters())}
    moved = [(value.detach(), source[name]) for name, value in teacher.named_parameters()]
    source = dict(student.named_buffers())
    for name, value in teacher.named_buffers():
        if buffers == 'ema' and value.is_floating_point():
            moved.append((value, source[name]))
        else:
            value.copy_(source[name])
    if moved:
        targets, values = map(list, zip(*moved))
        torch._foreach_lerp_(targets, [v.detach() for v in values], 1 - momentum)
