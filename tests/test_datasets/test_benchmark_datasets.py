"""Data sets of the benchmarks: their classes, and that they load what the converters write."""

from __future__ import annotations

import mmdet.datasets  # noqa: F401  (registers mmdet's data sets)
import numpy as np
import pytest
from miniature_data import (
    cityscapes_ids,
    lucchi_mask,
    make_cityscapes,
    make_coco,
    make_lucchi,
    make_sbd,
    make_voc,
    sbd_mask,
)
from mmdet.registry import DATASETS as DETECTION_DATASETS
from mmseg.datasets import COCOStuffDataset, PascalVOCDataset
from mmseg.registry import DATASETS
from tool_runs import TOOLS

from mmseg_semi.datasets import COCO81Dataset, LucchiDataset

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckAnnotations'),
]


@pytest.fixture(scope='module')
def convert(server):
    """Function that runs a converter on an incomplete data set."""

    def convert(name, *roots):
        server.run(TOOLS / 'dataset_converters' / f'{name}.py', *roots, '--partial')

    return convert


def build(kind, root, image, mask, **changes):
    prefix = dict(img_path=image, seg_map_path=mask)
    return DATASETS.build(
        dict(type=kind, data_root=str(root), data_prefix=prefix, pipeline=PIPELINE, **changes)
    )


def masks_of(dataset):
    """Loaded masks by the name of the image's file."""
    loaded = [dataset[index] for index in range(len(dataset))]
    assert all(one['img'].shape[:2] == one['gt_seg_map'].shape for one in loaded)
    return {one['img_path'].rsplit('/')[-1]: one['gt_seg_map'] for one in loaded}


# ------------------------------------------------------------------------------------------ classes
def test_coco_has_background_and_the_things_of_coco_stuff():
    classes, palette = COCO81Dataset.METAINFO['classes'], COCO81Dataset.METAINFO['palette']
    assert classes == ('background', *COCOStuffDataset.METAINFO['classes'][:80])
    assert len(palette) == 81 and len(set(map(tuple, palette))) == 81
    assert palette[:21] == PascalVOCDataset.METAINFO['palette']


def test_lucchi_has_two_classes():
    assert LucchiDataset.METAINFO['classes'] == ('background', 'mitochondrion')
    assert len(LucchiDataset.METAINFO['palette']) == 2


@pytest.mark.parametrize('kind', [COCO81Dataset, LucchiDataset])
def test_names_are_ours_alone(kind):
    assert DATASETS.get(kind.__name__) is kind and kind.__module__.startswith('mmseg_semi.')
    assert kind.__name__ not in DETECTION_DATASETS.module_dict


# --------------------------------------------------------------------------------- converted images
def test_voc_of_mmseg_loads_the_merged_masks(convert, tmp_path):
    voc, sbd = make_voc(tmp_path), make_sbd(tmp_path)
    convert('voc_sbd', voc.root, sbd.root)
    dataset = build(
        'PascalVOCDataset',
        voc.root,
        'JPEGImages',
        'SegmentationClassAug',
        ann_file='ImageSets/Segmentation/train_aug.txt',
    )
    masks = masks_of(dataset)
    assert len(dataset) == 8 and len(dataset.metainfo['classes']) == 21
    for name in ('2008_000002', '2008_000008'):
        assert np.array_equal(masks[f'{name}.jpg'], sbd_mask(name))
    assert 255 in masks['2007_000032.jpg']


def test_cityscapes_of_mmseg_loads_the_classes(convert, tmp_path):
    data = make_cityscapes(tmp_path)
    convert('cityscapes_train_ids', data.root)
    for part, count in (('train', 5), ('val', 2)):
        dataset = build('CityscapesDataset', data.root, f'leftImg8bit/{part}', f'gtFine/{part}')
        assert len(dataset) == count and len(dataset.metainfo['classes']) == 19
        masks = masks_of(dataset)
        for name in data.names[part]:
            mask = masks[f'{name.split("/")[1]}_leftImg8bit.png']
            road = dataset.metainfo['classes'].index('road')
            assert np.array_equal(mask == road, cityscapes_ids(name) == 7)
            assert set(np.unique(mask)) == {*range(19), 255}


def test_coco_loads_the_masks(convert, tmp_path):
    data = make_coco(tmp_path)
    convert('coco_masks', data.root)
    for part, count in (('train', 7), ('val', 4)):
        dataset = build('COCO81Dataset', data.root, f'{part}2017', f'semantic_masks/{part}2017')
        assert len(dataset) == count and len(dataset.metainfo['classes']) == 81
        assert not dataset.reduce_zero_label
        masks = masks_of(dataset)
        assert set(masks) == {f'{name}.jpg' for name in data.names[part]}
        assert max(mask.max() for mask in masks.values()) > 20
        assert not masks[f'{data.names[part][1]}.jpg'].any()


def test_lucchi_loads_the_slices(convert, tmp_path):
    data = make_lucchi(tmp_path)
    convert('lucchi', data.root)
    for part, stack in (('train', 'training'), ('val', 'testing')):
        dataset = build('LucchiDataset', data.root, f'images/{part}', f'annotations/{part}')
        assert len(dataset) == len(data.names[stack]) and len(dataset.metainfo['classes']) == 2
        assert not dataset.reduce_zero_label
        for number, (_, mask) in enumerate(sorted(masks_of(dataset).items())):
            assert np.array_equal(mask, lucchi_mask(stack, number))
