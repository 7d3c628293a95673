"""A teacher that lives beside the student without being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, Optional

import torch
from torch import nn

BUFFER_MODES = ('ema', 'copy')
FORWARD_MODES = ('eval', 'train')


class TeacherMixin:
    """Holds a teacher that optimizers, DDP and ``init_weights`` do not see.

    The teacher is no submodule, so it is in no optimizer and in no gradient sync; it still moves
    with ``to()`` and is saved and restored under ``teacher.*``. It is always in eval mode.
    """

    teacher: Optional[nn.Module] = None

    def _set_teacher(self, teacher: Optional[nn.Module]) -> None:
        object.__setattr__(self, 'teacher', teacher)
        if teacher is not None:
            teacher.requires_grad_(False)
            teacher.eval()

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.teacher is not None:
            self.teacher.state_dict(
                destination=destination, prefix=f'{prefix}teacher.', keep_vars=keep_vars
            )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        if self.teacher is None:
            return
        own = f'{prefix}teacher.'
        unexpected_keys[:] = [key for key in unexpected_keys if not key.startswith(own)]
        state = {key[len(own) :]: value for key, value in state_dict.items() if key.startswith(own)}
        if not state:
            missing_keys.append(f'{own}*')
            return
        try:
            result = self.teacher.load_state_dict(state, strict=False)
        except RuntimeError as error:  # sizes differ
            error_msgs.append(f'teacher: {error}')
            return
        missing_keys.extend(own + key for key in result.missing_keys)
        unexpected_keys.extend(own + key for key in result.unexpected_keys)


@contextmanager
def forward_mode(teacher: nn.Module, mode: str) -> Iterator[None]:
    """Put the teacher into ``mode`` inside the block, without moving its buffers.

    Args:
        teacher: In eval mode before and after.
        mode: ``'eval'`` or ``'train'``.
    """
    if mode == 'eval':
        yield
        return
    buffers = {name: value.clone() for name, value in teacher.named_buffers()}
    teacher.train()
    try:
        yield
    finally:
        teacher.eval()
        for name, value in teacher.named_buffers():
            value.copy_(buffers[name])


def check_same_state(student: nn.Module, teacher: nn.Module) -> None:
    """Raise ValueError when names or shapes of parameters and buffers differ."""
    ours = {name: tuple(value.shape) for name, value in student.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in teacher.state_dict().items()}
    differing = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
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

    ``teacher = momentum * teacher + (1 - momentum) * student`` for parameters (Tarvainen and
    Valpola, NeurIPS 2017, Eq. 1).

    Args:
        teacher: Changed in place.
        student: Read only.
        momentum: In [0, 1]; 0 copies.
        buffers: ``'ema'`` moves floating buffers (BatchNorm statistics) like parameters,
            ``'copy'`` takes the student's. Integer buffers are copied in both.

    Raises:
        ValueError: ``buffers`` is unknown.
    """
    if buffers not in BUFFER_MODES:
        raise ValueError(f'buffers must be one of {BUFFER_MODES}, got {buffers!r}')
    source = dict(student.named_parameters())
    moved = [(value, source[name]) for name, value in teacher.named_parameters()]
    source = dict(student.named_buffers())
    for name, value in teacher.named_buffers():
        if buffers == 'ema' and value.is_floating_point():
            moved.append((value, source[name]))
        else:
            value.copy_(source[name])
    if moved:
        targets, values = map(list, zip(*moved))
        torch._foreach_lerp_(targets, [v.detach() for v in values], 1 - momentum)
