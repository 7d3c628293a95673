"""What every teacher is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, Optional

from torch import Tensor, nn

from mmseg_semi.models.component import Component
from mmseg_semi.structures import SegOutputs


class BaseTeacher(Component):
    """Labels the unlabeled images; built right after ``model.segmentor``, before all others.

    Its ``network`` is no submodule: optimizers, DDP, ``init_weights`` and ``train()`` do not see
    it. It still moves with ``to()`` and is saved and restored under the teacher's own name
    (``teacher.*``). A teacher may be made of others, held as submodules.

    Attributes:
        network: What labels, and predicts when the teacher is asked to; None in one made of others.
        starts_as_student: Whether a plain checkpoint of the segmentor starts the network too.
    """

    network: Any = None
    starts_as_student: bool = False

    def set_network(self, network: nn.Module) -> None:
        """Take a network, which will always be in eval mode outside of :meth:`label`."""
        object.__setattr__(self, 'network', network.requires_grad_(False).eval())

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
            update: Number of the optimizer's update after the warm-up, from 0; negative in it.
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

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        if self.network is not None:
            self.network._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.network is not None:
            self.network.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

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
        # What the class itself and its submodules hold; the rest is of the network.
        held = {name for name, _ in [*self.named_parameters(), *self.named_buffers()]}
        held |= {f'{name}.' for name, _ in self.named_children()}
        mine = {key: v for key, v in state_dict.items() if _is_held(key, prefix, held)}
        state = state_dict if self.network is None else mine
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state, prefix, *rest)
        if self.network is None:
            return
        own = {
            key[len(prefix) :]: value
            for key, value in state_dict.items()
            if key.startswith(prefix) and key not in mine
        }
        if not own:
            missing_keys.append(f'{prefix}*')
            return
        try:
            result = self.network.load_state_dict(own, strict=False)
        except RuntimeError as error:  # sizes differ
            error_msgs.append(f'{prefix[:-1]}: {error}')
            return
        missing_keys.extend(prefix + key for key in result.missing_keys)
        unexpected_keys.extend(prefix + key for key in result.unexpected_keys)


def _is_held(key: str, prefix: str, held: set[str]) -> bool:
    name = key[len(prefix) :]
    return key.startswith(prefix) and (name in held or f'{name.split(".")[0]}.' in held)


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
        if training != wanted:
            network.train(training)
        for name, value in network.named_buffers():
            if name in buffers:
                value.copy_(buffers[name])
