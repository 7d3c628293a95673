"""What every teacher is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

import torch
from torch import Tensor, nn

from mmseg_semi.models.held_network import HeldNetwork
from mmseg_semi.structures import SegOutputs


class BaseTeacher(HeldNetwork):
    """Labels the unlabeled images; built right after ``model.segmentor``, before all others.

    Its ``network`` is saved and restored under the teacher's own name (``teacher.*``). A teacher
    may be made of others, held as submodules.

    Attributes:
        network: What labels, and predicts when the teacher is asked to; None in one made of others.
        starts_as_student: Whether a plain checkpoint of the segmentor starts the network too.
        from_start: Whether updates count from the run's first, and not from the end of the model's
            warm-up.
    """

    starts_as_student: bool = False
    from_start: bool = False

    @abstractmethod
    def label(self, images: Tensor) -> SegOutputs:
        """Say what the teacher thinks of normalized images (B, 3, H, W); called without grad."""

    @contextmanager
    def in_mode(self, mode: str, network: Optional[nn.Module] = None) -> Iterator[nn.Module]:
        """Put the network, or one that follows, into ``mode`` inside the block, and give it."""
        network = network or self.network
        with forward_mode(network, mode):
            yield network

    def reset(self) -> None:
        """Begin a run that is not resumed; the student has its first weights."""

    def update_state(self) -> None:
        """Take in what the passes of an iteration found."""

    def move(self, update: int) -> None:
        """Follow the student after an update of it.

        Args:
            update: Number of the optimizer's update after the warm-up, from 0; negative in it. With
                ``from_start``, the number of the run's update.
        """

    def follow(self, own: nn.Module, student: nn.Module) -> None:
        """Move a further module ``own`` of a component after ``student``, as the network.

        Raises:
            ValueError: This kind of teacher does not move.
        """
        raise ValueError(
            f'{type(self).__name__} moves no modules of other components: use '
            "model.teacher=dict(type='EMATeacher')"
        )


@contextmanager
def forward_mode(network: nn.Module, mode: str) -> Iterator[None]:
    """Put a network into ``mode`` inside the block, without moving its buffers.

    Args:
        network: In either mode; it has its own again afterwards.
        mode: ``'eval'`` or ``'train'``.
    """
    training, wanted = network.training, mode == 'train'
    buffers = {name: value.clone() for name, value in network.named_buffers()} if wanted else {}
    if training != wanted:
        network.train(wanted)
    try:
        yield
    finally:
        if any(one.requires_grad for one in network.parameters()):
            # In older torch, copies in half precision that autocast has made of the student's
            # weights without gradient serve the passes with gradient, too (its issue 158232).
            torch.clear_autocast_cache()
        if training != wanted:
            network.train(training)
        for name, value in network.named_buffers():
            if name in buffers:
                value.copy_(buffers[name])
