"""Sizes of objects: connected parts of each class."""

from __future__ import annotations

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image
from scene_files import LABELED_PIPELINE

from mmseg_semi.datasets import object_sizes
from mmseg_semi.datasets.object_sizes import check_objects, read_objects
from mmseg_semi.datasets.part_checks import Part, check_parts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def squares(*sides: int, value: int = 1) -> np.ndarray:
    """A mask (32, 128) with squares of one value."""
    mask, left = np.zeros((32, 128), np.uint8), 1
    for side in sides:
        mask[1 : 1 + side, left : left + side] = value
        left += side + 1
    return mask


def test_objects_are_counted_by_value_and_size(tmp_path):
    mask = squares(4, 4, 8, value=2)
    mask[31, 127] = mask[30, 126] = 7  # one object: they touch at a corner
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    found = {}
    for packed, count in read_objects(str(tmp_path / 'mask.png')).objects:
        found.setdefault(packed >> 8, {})[2 ** ((packed & 255) / 4)] = count
    assert found[2] == {4: 2, 8: 1}
    assert found[7] == {2**0.5: 1} and list(found[0].values()) == [1]


def test_files_that_are_no_masks_have_no_objects(tmp_path):
    path = tmp_path / 'mask.png'
    path.write_bytes(b'')
    assert read_objects(str(path)).reason
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    assert read_objects(str(path)).reason == 'no mask of 8 bits'


def part_of(scenes, *masks: np.ndarray, resize=()) -> Part:
    for i, mask in enumerate(masks):
        scenes.image(f'images/l{i}.png', mask.shape)
        Image.fromarray(mask).save(scenes.root / f'masks/l{i}.png')
    pipeline = [*LABELED_PIPELINE[:2], *resize, LABELED_PIPELINE[-1]]
    indices = list(range(len(masks)))
    config = scenes.labeled(pipeline=pipeline, indices=indices)
    part = Part('key', DATASETS.build(config), 'train')
    check_parts([part])
    return part


def test_objects_against_the_stride(scenes):
    part = part_of(scenes, squares(4, 4, 8, 8, 4), squares(4, 8, 8))
    assert list(check_objects(part, 4)) == []
    assert part.object_sizes[1] == 4
    (one,) = check_objects(part, 5)
    assert one.kind == 47 and len(one.files) == 2
    assert one.startswith('key: half of the objects are smaller, when they are cropped, than a pix')
    assert 'which is 5 x 5: 4.0 x 4.0 of the 8 of tree. ' in one
    assert list(check_objects(part, None)) == []


def test_objects_grow_with_the_image(scenes):
    double = dict(type='Resize', scale=(256, 64), keep_ratio=True)
    part = part_of(scenes, squares(4, 4, 8, 8, 4), resize=[double])
    assert list(check_objects(part, 5)) == []
    assert part.object_sizes[1] == 8


def test_few_objects_say_nothing(scenes):
    assert list(check_objects(part_of(scenes, squares(2, 2, 2, 2)), 16)) == []


def test_specks_are_named_by_their_masks(scenes):
    part = part_of(scenes, squares(8, 8, 8), squares(1, 1, 1, 1, 1, 1))
    (one,) = check_objects(part, None)
    assert one.kind == 48 and '3 pixels at most: 6 of 9 of tree, as in ' in one
    assert one.files == (str(scenes.root / 'masks/l1.png'),)


def test_of_many_masks_some_are_looked_at(scenes, monkeypatch):
    monkeypatch.setattr(object_sizes, 'MOST_MASKS', 2)
    looked = []
    monkeypatch.setattr(
        object_sizes, 'look_at', lambda paths, *_: looked.extend(paths) or map(read_objects, paths)
    )
    list(check_objects(part_of(scenes, *[squares(4)] * 5), 1))
    assert [path[-6:] for path in looked] == ['l0.png', 'l3.png']
