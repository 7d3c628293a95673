"""What a segmentor gives for a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

import torch.nn.functional as F
from torch import Tensor


@dataclass
class SegOutputs:
    """Logits and named features of one forward pass.

    Attributes:
        stages: Raw logits of each decoding stage, (B, K, h, w) at the head's own resolution;
            a plain segmentor has one stage, a cascade several. The last one predicts.
        size: Input size ``(H, W)``.
        align_corners: How the last stage's logits are resized.
        maps: What the backbone (and neck) hands to the decoder.
        features: Tapped features by name, (B, C, h, w) each.
    """

    stages: list[Tensor]
    size: tuple[int, int]
    align_corners: bool
    maps: Sequence[Tensor] = ()
    features: dict[str, Tensor] = field(default_factory=dict)
    _logits: Optional[Tensor] = field(default=None, repr=False)

    @property
    def logits(self) -> Tensor:
        """float32 logits at input size, (B, K, H, W)."""
        if self._logits is None:
            raw = self.stages[-1].float()
            if raw.shape[-2:] != tuple(self.size):
                raw = F.interpolate(
                    raw, size=self.size, mode='bilinear', align_corners=self.align_corners
                )
            self._logits = raw
        return self._logits

    def __len__(self) -> int:
        return self.stages[-1].shape[0]

    def split(self, sizes: Sequence[int]) -> list[SegOutputs]:
        """Cut the batch into consecutive parts of the given sizes."""
        if sum(sizes) != len(self):
            raise ValueError(f'sizes {list(sizes)} must sum to the batch size {len(self)}')
        stages = [stage.split(sizes) for stage in self.stages]
        maps = [part.split(sizes) for part in self.maps]
        features = {name: part.split(sizes) for name, part in self.features.items()}
        return [
            replace(
                self,
                stages=[stage[i] for stage in stages],
                maps=[part[i] for part in maps],
                features={name: part[i] for name, part in features.items()},
                _logits=None,
            )
            for i in range(len(sizes))
        ]
