"""What every memory is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Optional

from torch import Tensor, nn

from mmseg_semi.arguments import check_arguments, checked


class BaseMemory(nn.Module):
    """Notes something in each iteration; ``MemoryBankHook`` decides when its state moves."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if '__init__' in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    @abstractmethod
    def update_state(self) -> None:
        """Take in what has been noted, from all ranks; do nothing when nothing has been."""

    @abstractmethod
    def discard(self) -> None:
        """Forget what has been noted."""


def check_memory(key: str, kind: type[BaseMemory], cfg: Optional[dict[str, Any]]) -> dict[str, Any]:
    """Return the arguments of a memory that a component builds when it is attached.

    Args:
        key: Config key, for messages.
        kind: Class of the memory.
        cfg: What the config says.

    Raises:
        TypeError, ValueError: An argument that does not exist, or that follows from the segmentor,
            or outside its values.
    """
    cfg = dict(cfg or {})
    check_arguments(kind, cfg, key, complete=False)
    if {'num_classes', 'channels'} & set(cfg):
        raise ValueError(f'{key}: num_classes and channels follow from the segmentor, remove them')
    try:
        kind(num_classes=1, channels=1, **cfg)
    except ValueError as error:
        raise ValueError(f'{key}: {error}') from error
    return cfg


def check_stored(state_dict: dict[str, Any], key: str, own: Tensor, what: str, remedy: str) -> None:
    """Refuse a checkpoint whose buffer has another shape than the config gives.

    Args:
        state_dict: Of the checkpoint; a buffer that is not there is left to torch.
        key: The buffer's key in it.
        own: The buffer.
        what: What it is, with what its dimensions mean.
        remedy: What to do.

    Raises:
        ValueError: The shapes differ.
    """
    stored = state_dict.get(key)
    if stored is not None and stored.shape != own.shape:
        raise ValueError(
            f'{key}: the checkpoint has {what} of shape {tuple(stored.shape)}, the config '
            f'{tuple(own.shape)}: {remedy}'
        )
