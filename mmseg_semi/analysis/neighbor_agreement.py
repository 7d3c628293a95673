"""Measure how often neighboring pixels of the labeled masks share their class.

Writes the JSON file that NeighborhoodRefiner.joint reads (S4MC's empirical joint probability).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.registry import init_default_scope

from mmseg_semi.datasets.dataset_tree import data_infos, leaf_datasets
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.errors import reading
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.progress import track


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='training config; its labeled images are measured')
    parser.add_argument('--out', default='neighbor_agreement.json')
    parser.add_argument('--window', type=int, default=3, choices=(3, 5, 7))
    parser.add_argument('--connectivity', type=int, default=8, choices=(4, 8))
    return parser.parse_args(argv)


def offsets(window: int, connectivity: int) -> list[tuple[int, int]]:
    """List one of each pair of opposite neighbors (dy, dx)."""
    reach = window // 2
    steps = range(-reach, reach + 1)
    pairs = [(dy, dx) for dy in steps for dx in steps if (dy, dx) > (0, 0)]
    return [(y, x) for y, x in pairs if connectivity == 8 or abs(y) + abs(x) <= reach]


def count_pairs(mask: np.ndarray, classes: int, window: int = 3, connectivity: int = 8) -> tuple:
    """Count neighboring pixel pairs of known class.

    Args:
        mask: uint8 (H, W), class numbers; others (255) are unknown.
        classes: Number of classes K.
        window: Side of the window.
        connectivity: 8 or 4.

    Returns:
        Number of all pairs, and int64 (2, K): the pairs of which both are that class, and the
        places in pairs that a pixel of it takes (two in each of the former).
    """
    total, counts = 0, np.zeros((2, classes), np.int64)
    height, width = mask.shape
    for dy, dx in offsets(window, connectivity):
        first = mask[: height - dy, max(0, -dx) : width - max(0, dx)]
        second = mask[dy:, max(0, dx) : width + min(0, dx)]
        known = (first < classes) & (second < classes)
        total += int(known.sum())
        for row, found in (
            (0, first[known & (first == second)]),
            (1, np.concatenate([first[known], second[known]])),
        ):
            counts[row] += np.bincount(found, minlength=classes)[:classes]
    return total, counts


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    args = parse_args(argv)
    config = load_config(args.config)
    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = config.train_dataloader.dataset
    labeled = SemiDataset(dataset.get('labeled', dataset), None).labeled
    names = labeled.metainfo.get('classes') or ()
    total, counts = 0, np.zeros((2, len(names)), np.int64)
    samples = [
        (info, transform)
        for leaf in leaf_datasets(labeled)
        for info in data_infos(leaf)
        for transform in leaf.pipeline.transforms
        if type(transform).__name__ == 'LoadAnnotations'
    ]
    if not samples or not len(names):
        raise SystemExit(
            f'{args.config}: train_dataloader.dataset has no labeled masks, or its metainfo no '
            'classes, so there is nothing to measure: set them'
        )
    for info, load in track(samples):
        with reading(info.get('seg_map_path')):
            mask = load.transform(dict(info))['gt_seg_map']
        pairs, found = count_pairs(mask, len(names), args.window, args.connectivity)
        total, counts = total + pairs, counts + found
    if not total:
        raise SystemExit(
            f'{args.config}: the masks have no two neighboring pixels of known class: correct '
            'train_dataloader.dataset.labeled'
        )
    same, places = counts
    result = dict(
        classes=list(names),
        window=args.window,
        connectivity=args.connectivity,
        pairs=total,
        per_class=(same / total).tolist(),
        overall=float(same.sum() / total),
        # Share of a class's neighbors that are of it too; 0 for a class that is nowhere.
        conditional=(2 * same / np.maximum(places, 1)).tolist(),
    )
    part = Path(f'{args.out}.part')
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(result, indent=1) + '\n')
    os.replace(part, args.out)
    print(f'\n{args.out}: {total} pairs in {len(samples)} masks, {result["overall"]:.4f} agree')
