"""Earlier weights of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Snapshots(nn.Module):
    """The last weights that were kept of a network, first in, first out.

    They are no parameters and no buffers, so that optimizers and DDP do not see them, but they move
    with ``to()`` and are in every checkpoint: ``count`` sets, the oldest first (``0``, ``1``, ...).
    Room for all is taken at once, so that a run that begins does not run out of memory later.

    Args:
        values: Floating tensors of a network, in an order that stays.
        size: How many sets of them are kept.
        on_cpu: Whether they stay in the CPU's memory when the model moves to a GPU.
    """

    def __init__(self, values: Sequence[Tensor], size: int, on_cpu: bool = False) -> None:
        super().__init__()
        length = sum(value.numel() for value in values)
        self.on_cpu, self.count = on_cpu, 0
        self.rows = [torch.zeros(length) for _ in range(size)]

    def __len__(self) -> int:
        return self.count

    def clear(self) -> None:
        """Forget all."""
        self.count = 0

    @torch.no_grad()
    def push(self, values: Sequence[Tensor]) -> None:
        """Keep what the tensors hold now; the oldest set makes room where there is none."""
        if self.count == len(self.rows):
            self.rows.append(self.rows.pop(0))
            self.count -= 1
        torch._foreach_copy_(self._split(self.count, values), list(values))
        self.count += 1

    @torch.no_grad()
    def load(self, number: int, values: Sequence[Tensor]) -> None:
        """Write a set that was kept into such tensors.

        Args:
            number: From 0, the oldest.
            values: As they were pushed; changed in place.
        """
        torch._foreach_copy_(list(values), self._split(number, values))

    def _split(self, number: int, values: Sequence[Tensor]) -> list[Tensor]:
        parts = self.rows[number].split([value.numel() for value in values])
        return [part.view_as(value) for part, value in zip(parts, values)]

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        if not self.on_cpu:
            self.rows = [fn(row) for row in self.rows]
        return self

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        destination[f'{prefix}count'] = torch.tensor(self.count)
        destination.update({f'{prefix}{number}': row for number, row in enumerate(self.rows)})

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
        stored = {key[len(prefix) :]: v for key, v in state_dict.items() if key.startswith(prefix)}
        if not stored:
            missing_keys.append(f'{prefix}*')
            return
        rows = [stored[name] for name in sorted(stored.keys() - {'count'}, key=int)]
        if [len(one) for one in rows] != [len(one) for one in self.rows]:
            error_msgs.append(
                f'{prefix[:-1]}: the checkpoint has {len(rows)} x {len(rows[0])} numbers of '
                f'earlier weights, the config {len(self.rows)} x {len(self.rows[0])}: keep '
                'model.segmentor and the size that the run began with'
            )
            return
        self.count = int(stored['count'])
        for own, row in zip(self.rows, rows):
            own.copy_(row)
