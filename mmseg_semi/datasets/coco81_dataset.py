"""COCO 2017 as a data set of 81 classes."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

THINGS = (
    *('person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat'),
    *('traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat'),
    *('dog', 'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'backpack'),
    *('umbrella', 'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball'),
    *('kite', 'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket'),
    *('bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple'),
    *('sandwich', 'orange', 'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair'),
    *('couch', 'potted plant', 'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse'),
    *('remote', 'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink'),
    *('refrigerator', 'book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier'),
    'toothbrush',
)


def bit_color(number: int) -> list[int]:
    """RGB color of a class: its bits go to red, green and blue in turn, highest value first.

    Different for every number from 0 (black) to 255.
    """
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return color


@DATASETS.register_module()
class COCO81Dataset(BaseSegDataset):
    """COCO's 80 kinds of things, and background as class 0.

    ``tools/dataset_converters/coco_masks.py`` makes the masks out of the annotated objects.

    Args:
        img_suffix: Suffix of images.
        seg_map_suffix: Suffix of masks.
        **kwargs: As in mmseg's ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=('background', *THINGS),
        palette=[bit_color(number) for number in range(1 + len(THINGS))],
    )

    def __init__(
        self,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            **kwargs,
        )
