"""FixMatch, UniMatch, CorrMatch and RankMatch."""

from __future__ import annotations

from typing import Callable

from tests.parity.comparison import Comparison, Recording

REPLAYS: dict[str, Callable[[Recording], Comparison]] = {}
