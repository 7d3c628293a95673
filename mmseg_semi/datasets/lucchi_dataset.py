"""Mitochondria in an electron microscopy stack."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class LucchiDataset(BaseSegDataset):
    """The Lucchi (EPFL hippocampus) mitochondria set, one image a slice.

    ``tools/dataset_converters/lucchi.py`` takes the stacks apart.

    Args:
        img_suffix: Suffix of images.
        seg_map_suffix: Suffix of masks.
        **kwargs: As in mmseg's ``BaseSegDataset``.
    """

    METAINFO = dict(classes=('background', 'mitochondrion'), palette=[[0, 0, 0], [255, 0, 0]])

    def __init__(
        self,
        img_suffix: str = '.png',
        seg_map_suffix: str = '.png',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            **kwargs,
        )
