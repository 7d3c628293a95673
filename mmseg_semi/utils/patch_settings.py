"""Crops that an encoder cannot divide into its patches: found in the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_semi.utils.config_keys import value_at


def check_patches(cfg: Config) -> None:
    """Refuse training crops that are no multiples of the patch of the encoder.

    Raises:
        ValueError: Names the key of the crop, its size and the nearest one that fits.
    """
    prefix, kind, patch = _encoder(cfg)
    if not patch:
        return
    for key, value in _crops('train_dataloader', cfg.get('train_dataloader')):
        sides = value if isinstance(value, (list, tuple)) else (value, value)
        if all(isinstance(side, int) for side in sides) and any(side % patch for side in sides):
            near = tuple(max(round(side / patch), 1) * patch for side in sides)
            raise ValueError(
                f'{key} is {value!r}, but {prefix}.backbone ({kind}) takes images whose sides are '
                f'multiples of {patch}: set it to {near}'
            )


def check_patch_segmentor(cfg: Config) -> None:
    """Refuse a segmentor that predicts images as they are where the encoder has patches.

    Raises:
        ValueError: Names the key and the segmentor that resizes.
    """
    prefix, kind, patch = _encoder(cfg)
    whole = value_at(cfg, f'{prefix}.type')
    if patch and whole in ('EncoderDecoder', 'SlidingEncoderDecoder'):
        raise ValueError(
            f'{prefix}.type is {whole!r}, which predicts images as they are, but {prefix}.backbone '
            f"({kind}) takes sides that are multiples of {patch}: set it to 'PatchEncoderDecoder', "
            'which resizes where they are not'
        )


def _encoder(cfg: Config) -> tuple[str, Any, int]:
    """Key of the segmentor, class of its encoder, and the patch; 0 where any size is taken."""
    prefix = 'model.segmentor' if value_at(cfg, 'model.segmentor') else 'model'
    backbone = value_at(cfg, f'{prefix}.backbone') or {}
    return prefix, backbone.get('type'), _patch(backbone)


def _patch(backbone: Mapping[str, Any]) -> int:
    """The patch of an encoder that takes nothing but multiples of it; 0 for others."""
    kind = backbone.get('type')
    entry: Any = MODELS.get(kind) if isinstance(kind, str) else kind
    if hasattr(entry, 'patch_of') and 'model' in backbone:
        return entry.patch_of(backbone)
    patch = getattr(entry, 'patch_size', None)
    return patch if isinstance(patch, int) else 0


def _crops(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of every ``crop_size`` below a node."""
    items = node.items() if isinstance(node, Mapping) else ()
    if isinstance(node, (list, tuple)):
        items = enumerate(node)  # type: ignore[assignment]
    for name, value in items:
        if name == 'crop_size':
            yield f'{key}.{name}', value
        yield from _crops(f'{key}.{name}', value)
