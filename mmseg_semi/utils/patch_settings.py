"""Crops that an encoder cannot divide into its patches: found in the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_semi.utils.config_keys import value_at


def check_patches(cfg: Config) -> None:
    """Refuse training crops that are no multiples of the ``patch_size`` of the encoder's class.

    Raises:
        ValueError: Names the key of the crop, its size and the nearest one that fits.
    """
    prefix = 'model.segmentor' if value_at(cfg, 'model.segmentor') else 'model'
    kind = value_at(cfg, f'{prefix}.backbone.type')
    entry = MODELS.get(kind) if isinstance(kind, str) else kind
    patch = getattr(entry, 'patch_size', None)
    if not isinstance(patch, int):
        return
    for key, value in _crops('train_dataloader', cfg.get('train_dataloader')):
        sides = value if isinstance(value, (list, tuple)) else (value, value)
        if all(isinstance(side, int) for side in sides) and any(side % patch for side in sides):
            near = tuple(max(round(side / patch), 1) * patch for side in sides)
            raise ValueError(
                f'{key} is {value!r}, but {prefix}.backbone ({kind}) takes images whose sides are '
                f'multiples of {patch}: set it to {near}'
            )


def _crops(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of every ``crop_size`` below a node."""
    items = node.items() if isinstance(node, Mapping) else ()
    if isinstance(node, (list, tuple)):
        items = enumerate(node)  # type: ignore[assignment]
    for name, value in items:
        if name == 'crop_size':
            yield f'{key}.{name}', value
        yield from _crops(f'{key}.{name}', value)
