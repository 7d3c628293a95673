"""Components that hold a network beside the student."""

from __future__ import annotations

from typing import Any, Callable

from torch import nn

from mmseg_semi.models.component import Component


class HeldNetwork(Component):
    """Holds a network that no optimizer trains.

    It is no submodule: optimizers, DDP, ``init_weights`` and ``train()`` do not see it. It still
    moves with ``to()`` and is saved and restored under the component's own name.

    Attributes:
        network: The network; None where there is none.
        saved: Whether checkpoints have it.
    """

    network: Any = None
    saved: bool = True

    def set_network(self, network: nn.Module) -> None:
        """Take a network, which will always be in eval mode outside of :meth:`label`."""
        object.__setattr__(self, 'network', network.requires_grad_(False).eval())

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        if self.network is not None:
            self.network._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.network is not None and self.saved:
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
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if self.network is None or not self.saved:
            super()._load_from_state_dict(state_dict, prefix, *rest)
            return
        # What the class itself and its submodules hold; the rest is of the network.
        held = {name for name, _ in [*self.named_parameters(), *self.named_buffers()]}
        held |= {f'{name}.' for name, _ in self.named_children()}
        mine = {key: v for key, v in state_dict.items() if _is_held(key, prefix, held)}
        super()._load_from_state_dict(mine, prefix, *rest)
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
