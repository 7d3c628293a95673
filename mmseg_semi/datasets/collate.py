"""Batches of labeled and unlabeled items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.registry import FUNCTIONS

from mmseg_semi.errors import DataError


@FUNCTIONS.register_module()
def semi_collate(items: Sequence[dict[str, Any]]) -> dict[str, dict[str, list]]:
    """Put items of ``SemiDataset`` into one batch, images unstacked since sizes may differ.

    Args:
        items: Labeled and unlabeled items in any order.

    Returns:
        ``dict(labeled=dict(inputs=[image], data_samples=[sample]), unlabeled=dict(weak=[image],
        strong=[[image] per view], data_samples=[sample]))``, images uint8 (3, H, W). A part of
        which the batch has no item is left out.

    Raises:
        DataError: An item that is of neither part, or unlabeled items of different numbers of
            strong views.
    """
    parts: dict[str, list[dict[str, Any]]] = dict(labeled=[], unlabeled=[])
    for item in items:
        if item.get('source') not in parts:
            raise DataError(
                f'semi_collate got an item with the keys {sorted(item)}: it takes items of '
                "SemiDataset only. Set train_dataloader.dataset.type='SemiDataset', or leave "
                'collate_fn out.'
            )
        parts[item['source']].append(item)
    batch = {}
    if parts['labeled']:
        batch['labeled'] = _columns(parts['labeled'], 'inputs', 'data_samples')
    if parts['unlabeled']:
        columns = _columns(parts['unlabeled'], 'weak', 'strong', 'data_samples')
        numbers = {len(views) for views in columns['strong']}
        if len(numbers) > 1:
            raise DataError(
                f'the unlabeled images of a batch have {sorted(numbers)} strong views: use the '
                'same StrongViews.num_views in every unlabeled pipeline'
            )
        columns['strong'] = [list(view) for view in zip(*columns['strong'])]
        batch['unlabeled'] = columns
    return batch


def _columns(items: list[dict[str, Any]], *keys: str) -> dict[str, list]:
    for item in items:
        missing = [key for key in keys if key not in item]
        if missing:
            pack = 'PackSemiInputs' if 'weak' in keys else 'PackSegInputs'
            raise DataError(
                f'an item of the {item["source"]} part lacks {", ".join(missing)}: its pipeline '
                f'must end with {pack}'
            )
    return {key: [item[key] for item in items] for key in keys}
