"""A run that is resumed with other files under the names of before."""

import cv2
import pytest
from mmseg.registry import DATASETS
from scene_files import mmseg_scope, scenes  # noqa: F401  (fixtures)

from mmseg_semi.datasets import file_digests
from mmseg_semi.datasets.file_digests import digest_parts
from mmseg_semi.datasets.splits import dataset_names
from mmseg_semi.engine.hooks import run_record_hook as module


@pytest.fixture(autouse=True)
def bitmaps(scenes):  # noqa: F811
    """All files of a folder have one size."""
    for path in scenes.root.rglob('*.png'):
        cv2.imwrite(str(path.with_suffix('.bmp')), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        path.unlink()
    return scenes


def digests(bitmaps):
    config = bitmaps.labeled(img_suffix='.bmp', seg_map_suffix='.bmp')
    parts = DATASETS.build(config), DATASETS.build(bitmaps.unlabeled())
    ours, theirs = map(dataset_names, parts)
    return parts, digest_parts(parts[0], ours, parts[1], theirs)


def exchange(first, second):
    contents = first.read_bytes(), second.read_bytes()
    assert len(contents[0]) == len(contents[1]) and contents[0] != contents[1]
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])


def warnings_of(bitmaps, change, monkeypatch):
    parts, before = digests(bitmaps)
    change(bitmaps.root)
    _, now = digests(bitmaps)
    texts: list[str] = []
    monkeypatch.setattr(module, '_warn', texts.append)
    monkeypatch.setattr(module, '_parts_of', lambda dataset: dataset)
    module._warn_of_files(parts, before, now)
    return texts


@pytest.mark.parametrize(
    ('part', 'folder', 'names'),
    [
        ('labeled masks', 'masks', ('l1', 'l4')),
        ('labeled images', 'images', ('l0', 'l2')),
        ('unlabeled images', 'unlabeled', ('u0', 'u6')),
    ],
)
def test_exchanged_files_of_one_size(bitmaps, monkeypatch, part, folder, names):
    paths = [bitmaps.root / folder / f'{name}.bmp' for name in names]
    texts = warnings_of(bitmaps, lambda _: exchange(*paths), monkeypatch)
    assert texts == [
        f'{part} of the run to be resumed have been changed since (2 of them: {paths[0]}, '
        f'{paths[1]}), and its results will be those of neither. Put them back, or start a new run.'
    ]


def test_one_pixel_of_a_mask(bitmaps, monkeypatch):
    path = bitmaps.root / 'masks/l3.bmp'

    def change(_):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[5, 7] = (mask[5, 7] + 1) % 3
        cv2.imwrite(str(path), mask)

    (text,) = warnings_of(bitmaps, change, monkeypatch)
    assert text.startswith('labeled masks ') and f'(1 of them: {path})' in text


def test_copied_data_are_the_same(bitmaps, monkeypatch):
    def copy(root):
        for path in root.rglob('*.bmp'):
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)

    assert warnings_of(bitmaps, copy, monkeypatch) == []


def test_very_many_files_have_one_digest(bitmaps, monkeypatch):
    monkeypatch.setattr(file_digests, '_MOST_FILES', 4)
    before = digests(bitmaps)[1]
    assert {len(one) for one in before.values()} == {8}
    assert digests(bitmaps)[1] == before
    exchange(*(bitmaps.root / f'masks/{name}.bmp' for name in ('l1', 'l4')))
    (text,) = warnings_of(
        bitmaps,
        lambda root: (root / 'unlabeled/u3.bmp').write_bytes(b'another size'),
        monkeypatch,
    )
    assert text.startswith('unlabeled images of the run to be resumed have been changed since, and')
    now = digests(bitmaps)[1]
    assert now['labeled masks'] != before['labeled masks']
    assert now['labeled images'] == before['labeled images']


def test_the_order_of_a_list_does_not_count(bitmaps):
    before = digests(bitmaps)[1]
    bitmaps.split([f'l{i}' for i in (3, 1, 4, 0, 2)])
    assert digests(bitmaps)[1] == before
