"""Recordings of whole training steps, and how far a replayed step is from one."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

KINDS = ('loss', 'gradient', 'state')


class Recording:
    """The arrays and the ``meta`` of one file.

    Args:
        path: An npz file with a JSON text under ``meta``.

    Raises:
        ValueError: It is no such file.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                self.arrays = {name: file[name] for name in file.files}
            self.meta: dict[str, Any] = dict(json.loads(str(self.arrays.pop('meta'))))
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f'{path} is no recording of a step: {error}') from error

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        """A tensor as it was recorded, floats in float64."""
        if name not in self.arrays:
            raise ValueError(f"{self.path.name} has no field '{name}'")
        value = torch.from_numpy(np.array(self.arrays[name]))
        return value.double() if value.is_floating_point() else value

    def group(self, prefix: str) -> dict[str, Tensor]:
        """All fields under a prefix, without it."""
        names = [name for name in self.arrays if name.startswith(prefix)]
        return {name[len(prefix) :]: self[name] for name in names}


@dataclass
class Comparison:
    """Largest relative differences by kind, each with the name of where it is.

    Attributes:
        largest: ``(difference, name)`` by kind: ``loss``, ``gradient`` (norms, relative to the
            largest norm) and ``state`` (of the tensor's largest value).
        counted: How many values of each kind were compared.
        losses: Difference of each loss by its name.
    """

    largest: dict[str, tuple[float, str]] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, name: str, got: Any, expected: Any, scale: float = 0.0) -> None:
        """Compare a number or tensor.

        Args:
            kind: One of ``KINDS``.
            name: What it is.
            got: Ours.
            expected: The recorded one, of the same shape.
            scale: What the difference is relative to; the largest recorded magnitude by default.

        Raises:
            ValueError: The shapes differ.
        """
        assert kind in KINDS
        got = torch.as_tensor(got, dtype=torch.float64).detach()
        expected = torch.as_tensor(expected, dtype=torch.float64).detach()
        if got.shape != expected.shape:
            raise ValueError(f'{name}: {tuple(got.shape)}, recorded {tuple(expected.shape)}')
        self.counted[kind] = self.counted.get(kind, 0) + 1
        scale = scale or float(expected.abs().max()) or 1.0
        difference = float((got - expected).abs().max()) / scale
        if kind == 'loss':
            self.losses[name] = difference
        if np.isnan(difference) or difference >= self.largest.get(kind, (-1.0, ''))[0]:
            self.largest[kind] = (difference, name)

    def add_equal(self, name: str, got: Tensor, expected: Tensor) -> None:
        """Compare labels or masks: the difference is the share of entries that differ."""
        if got.shape != expected.shape:
            raise ValueError(f'{name}: {tuple(got.shape)}, recorded {tuple(expected.shape)}')
        self.add('state', name, (got != expected).double().mean(), 0.0)

    def add_gradients(self, got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """Compare gradient norms by name, relative to the largest: some cancel exactly."""
        scale = max(float(value) for value in expected.values())
        for name, value in expected.items():
            self.add('gradient', name, got[name], value, scale)

    def passes(self, limit: float) -> bool:
        """Whether losses, gradients and state were compared and none is further than ``limit``."""
        return all(kind in self.largest and self.largest[kind][0] <= limit for kind in KINDS)

    def __str__(self) -> str:
        losses = ', '.join(f'{name} {value:.1e}' for name, value in self.losses.items())
        parts = [
            f'{kind} {self.largest[kind][0]:.1e} ({self.largest[kind][1]}, of {self.counted[kind]})'
            for kind in KINDS[1:]
            if kind in self.largest
        ]
        return '; '.join([f'losses: {losses}', *parts])


@dataclass
class Outcome:
    """A replayed step.

    Attributes:
        comparison: With what was recorded.
        total: The trained loss, 0-dim.
        gradients: Of the student's parameters, by name.
    """

    comparison: Comparison
    total: Tensor
    gradients: dict[str, Tensor]
