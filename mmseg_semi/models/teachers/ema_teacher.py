"""The Mean Teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
from mmengine.dist import all_reduce_params
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import Number, OneOf, Whole
from mmseg_semi.structures import SegOutputs, SemiStep

from .base_teacher import BaseTeacher, forward_mode

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

BUFFER_MODES = ('ema', 'copy', 'own')
FORWARD_MODES = ('eval', 'train')


@MODELS.register_module()
class EMATeacher(BaseTeacher):
    r"""Exponential moving average of the student.

    Mean Teacher (Tarvainen and Valpola, NeurIPS 2017, Eq. 1): after each update of the student
    :math:`\theta_T \leftarrow m_t \theta_T + (1 - m_t) \theta_S` with
    :math:`m_t = \min(1 - 1 / (t + 1), m)`, t counted from 0 at the end of the model's warm-up, so
    the teacher is the student in the warm-up and after the first update that follows.
    ``MeanTeacherHook`` says when; a run that is not resumed begins with a copy of the student.
    Modules of other components that asked for it move likewise.

    Args:
        momentum: m, in [0, 1).
        buffers: ``'ema'`` moves floating buffers (BatchNorm statistics) like parameters,
            ``'copy'`` takes the student's. ``'own'`` never takes the student's after the warm-up:
            they are the statistics of the teacher's own passes in mode 'train' (U2PL's and S4MC's
            programs), their mean over all ranks, so there must be such passes: ``mode='train'``,
            or streams.
        mode: ``'train'`` normalizes the images it labels by their own statistics and applies
            dropout, as some methods do; its state is not touched by that while it labels.
        warm_up: Whether to limit the momentum by ``1 - 1 / (t + 1)``.
        from_start: Whether the teacher averages in the model's warm-up too: t counts from the run's
            first update, and the limit is ``(1 + t) / (10 + t)``, an average of about the last
            tenth of the updates. Without, the first pseudo-labels are those of a copy of the
            student, which is surer of itself than an average.
        copy_epochs: Epochs after the warm-up in which the teacher's parameters still are the
            student's (1 in U2PL's and S4MC's programs); needs ``SemiTrainLoop``.

    Raises:
        ValueError: An argument outside its values; ``from_start`` with what belongs to the warm-up
            alone: ``buffers='own'``, ``copy_epochs``, ``warm_up=False``. When training begins,
            ``buffers='own'`` without a pass of the teacher in mode 'train'.
        RuntimeError: While training: the length of an epoch is not known.
    """

    hooks = (dict(type='MeanTeacherHook'),)
    starts_as_student = True

    def __init__(
        self,
        momentum: Annotated[float, Number(0, 1, below=True)] = 0.99,
        buffers: Annotated[str, OneOf(*BUFFER_MODES)] = 'ema',
        mode: Annotated[str, OneOf(*FORWARD_MODES)] = 'eval',
        warm_up: bool = True,
        copy_epochs: Annotated[int, Whole(0)] = 0,
        from_start: bool = False,
    ) -> None:
        super().__init__()
        if from_start and (buffers == 'own' or copy_epochs or not warm_up):
            raise ValueError(
                'EMATeacher.from_start=True averages from the first update on, and is not for '
                f'buffers={buffers!r}, warm_up={warm_up}, copy_epochs={copy_epochs}: set '
                "buffers='ema', warm_up=True and copy_epochs=0, or from_start=False"
            )
        self.momentum, self.buffer_mode, self.mode, self.warm_up = momentum, buffers, mode, warm_up
        self.copy_epochs, self.from_start = copy_epochs, from_start
        self._model: tuple[Any, ...] = ()
        self._followers: list[tuple[nn.Module, nn.Module]] = []
        self._found: dict[nn.Module, dict[str, Tensor]] = {}

    def attach(self, model: SemiSegmentor) -> None:
        """Build a network like ``model.segmentor``."""
        self._model = (model,)  # in a tuple, so that it is not a submodule
        network = MODELS.build(model.segmentor_cfg)
        if model.frozen_encoder:  # nothing would move the teacher's
            network.backbone = model.segmentor.backbone
        self.set_network(network)
        self.reset()

    def check_batch(self, step: SemiStep) -> None:
        """Refuse a run whose passes and progress are not what the arguments need."""
        streams = self._model[0].streams.values()
        trains = any((one.network, one.mode) == ('teacher', 'train') for one in streams)
        if self.buffer_mode == 'own' and self.mode != 'train' and not trains:
            raise ValueError(
                "model.teacher.buffers is 'own', but the teacher has no pass in mode 'train': set "
                "model.teacher.mode='train', add model.streams=dict(teacher_strong=dict(images="
                "'strong', network='teacher', mode='train')), or set buffers='ema'"
            )
        if self.copy_epochs and step.iters_per_epoch < 1:
            raise RuntimeError(
                f'model.teacher.copy_epochs={self.copy_epochs} needs to know how long an epoch is: '
                "train with train_cfg=dict(type='SemiTrainLoop', ...), or set it to 0"
            )

    def label(self, images: Tensor) -> SegOutputs:
        """Run the network on normalized images (B, 3, H, W)."""
        with self.in_mode(self.mode) as network:
            return self._model[0].run(images, network)

    @contextmanager
    def in_mode(self, mode: str, network: Optional[nn.Module] = None) -> Iterator[nn.Module]:
        """See ``BaseTeacher``; with ``buffers='own'``, remember the statistics of the pass."""
        network = network or self.network
        with forward_mode(network, mode):
            if mode == 'train' and self.buffer_mode == 'own' and self.training:
                buffers = dict(network.named_buffers())
                for name, value in self._found.get(network, {}).items():
                    buffers[name].copy_(value)  # a second pass moves on from the first
                yield network
                self._found[network] = {name: value.clone() for name, value in buffers.items()}
            else:
                yield network

    @torch.no_grad()
    def update_state(self) -> None:
        """Take in the statistics of the teacher's own passes."""
        for network, found in self._found.items():
            floating = [value for value in found.values() if value.is_floating_point()]
            if floating:
                all_reduce_params(floating, op='mean')
            for name, value in network.named_buffers():
                value.copy_(found[name])
        self._found.clear()

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
        """Momentum of the move after the optimizer's ``update``, counted as in ``move``."""
        if not self.warm_up:
            return self.momentum
        if self.from_start:
            return min((1 + update) / (10 + update), self.momentum)
        return 0.0 if update < 0 else min(1 - 1 / (update + 1), self.momentum)

    @property
    def _copies(self) -> bool:
        """Whether this is one of the epochs in which the parameters are the student's."""
        if not self.copy_epochs:
            return False
        model = self._model[0]
        past = model.progress[0] - model.warmup_length
        return past < self.copy_epochs * model.iters_per_epoch

    def move(self, update: int) -> None:
        """Move towards the student."""
        momentum = 0.0 if self._copies else self.momentum_at(update)
        buffers = 'copy' if self.buffer_mode == 'own' and update < 0 else self.buffer_mode
        for own, student in self._pairs():
            update_teacher(own, student, momentum, buffers)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'momentum={self.momentum}, buffers={self.buffer_mode!r}, mode={self.mode!r}, '
            f'warm_up={self.warm_up}, copy_epochs={self.copy_epochs}, from_start={self.from_start}'
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
        buffers: See ``EMATeacher``; ``'own'`` leaves them. Else integer buffers are copied.

    Raises:
        ValueError: ``buffers`` is unknown.
    """
    OneOf(*BUFFER_MODES).check('buffers', buffers)
    source: dict[str, Tensor] = {**dict(student.named_parameters())}
    moved = [
        (value.detach(), source[name])
        for name, value in teacher.named_parameters()
        if value is not source[name]  # of a frozen encoder that both have
    ]
    source = dict(student.named_buffers())
    for name, value in teacher.named_buffers() if buffers != 'own' else ():
        if buffers == 'ema' and value.is_floating_point():
            moved.append((value, source[name]))
        else:
            value.copy_(source[name])
    if moved:
        targets, values = zip(*((own, one.detach()) for own, one in moved))
        if momentum == 0:
            torch._foreach_copy_(targets, values)
        else:
            torch._foreach_lerp_(targets, values, 1 - momentum)
