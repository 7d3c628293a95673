"""Exports of labeling tools as people have them: hidden files, links, names, other numbers."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from label_exports import boxes, bring, classes, mask, not_used, photo
from PIL import Image

from mmseg_semi.errors import DataError
from mmseg_semi.files import folders_below

SQUARE = [[5, 5, 20, 5, 20, 20, 5, 20]]


def save(path: Path, values: np.ndarray, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette(palette)
    image.save(path)


def numbered(*values: int) -> np.ndarray:
    """A mask of 40 x 30 with a row of squares of these values."""
    found = np.zeros((30, 40), np.uint8)
    for place, value in enumerate(values):
        found[5:9, 5 * place : 5 * place + 4] = value
    return found


def coco(names: list[str], labels: list[str], polygon: list = SQUARE) -> dict:
    """One object of the class 'cat' in each image."""
    ids = {name: number for number, name in enumerate(labels, 1)}
    return dict(
        images=[dict(id=i, file_name=name, width=40, height=30) for i, name in enumerate(names, 1)],
        categories=[dict(id=number, name=name) for name, number in ids.items()],
        annotations=[
            dict(id=i, image_id=i, category_id=ids['cat'], segmentation=one, bbox=[5, 5, 15, 15])
            for i, one in enumerate([SQUARE] * (len(names) - 1) + [polygon], 1)
        ],
    )


def test_numbers_of_objects_under_a_name_that_is_no_class(tmp_path):
    photo(tmp_path / 'photos/a.jpg')
    save(tmp_path / 'masks/a_cells.png', numbered(1, 2, 3))
    out = bring(tmp_path / 'masks', tmp_path / 'out', images=tmp_path / 'photos', numbers='objects')
    assert classes(out) == ['background', 'object']
    assert (mask(out, 'a.png') == (numbered(1, 2, 3) > 0)).all()
    assert [one[1] for one in boxes(out)] == ['object'] * 3


def test_the_file_of_a_class_has_it_where_it_is_not_black(tmp_path):
    photo(tmp_path / 'photos/a.jpg')
    save(tmp_path / 'masks/a_cells.png', numbered(1, 2, 3))
    out = bring(tmp_path / 'masks', tmp_path / 'out', images=tmp_path / 'photos')
    assert classes(out) == ['background', 'cells']
    assert (mask(out, 'a.png') == (numbered(1, 2, 3) > 0)).all()


def test_borders_between_black_and_white_are_halved(tmp_path):
    photo(tmp_path / 'photos/a.jpg')
    values = numbered(*[255] * 6)
    values[20] = [20] * 10 + [200] * 10 + [0] * 20
    save(tmp_path / 'masks/a_cells.png', values)
    out = bring(tmp_path / 'masks', tmp_path / 'out', images=tmp_path / 'photos')
    assert (mask(out, 'a.png') == (values > 127)).all()


def test_very_many_levels_are_no_mask_of_one_class(tmp_path):
    photo(tmp_path / 'photos/a.jpg')
    save(tmp_path / 'masks/a_cells.png', np.arange(1200).reshape(30, 40).astype(np.uint8) % 200)
    with pytest.raises(DataError, match=r'a_cells.png .*give --numbers objects'):
        bring(tmp_path / 'masks', tmp_path / 'out', images=tmp_path / 'photos')


def test_numbers_with_a_palette_in_some_files_alone(tmp_path):
    for name, palette in dict(a=None, b=[0, 0, 0, 128, 0, 0, 0, 128, 0]).items():
        photo(tmp_path / f'photos/{name}.jpg')
        save(tmp_path / f'masks/{name}.png', numbered(1, 2), palette)
    images = tmp_path / 'photos'
    out = bring(tmp_path / 'masks', tmp_path / 'out', images=images, classes=['bg', 'x', 'y'])
    for name in 'ab':
        assert (mask(out, f'{name}.png') == numbered(1, 2)).all()


def test_volumes_whose_masks_lie_below_the_images(tmp_path):
    cubes = np.random.default_rng(0).integers(0, 255, (2, 4, 32, 40)).astype(np.uint8)
    (tmp_path / 'scans/masks').mkdir(parents=True)
    for name, cube in zip(('p1', 'p2'), cubes):
        for folder, values in dict(scans=cube, masks=cube > 99).items():
            path = tmp_path / ('scans' if folder == 'scans' else 'scans/masks') / f'{name}.tif'
            tifffile.imwrite(path, values.astype(np.uint8), imagej=True, metadata=dict(axes='ZYX'))
    out = bring(tmp_path / 'scans/masks', tmp_path / 'out', images=tmp_path / 'scans')
    names = {path.stem for path in (out / 'images').rglob('*') if path.is_file()}
    assert names == {f'p{volume}_z000{place}' for volume in (1, 2) for place in range(4)}
    assert {path.stem for path in (out / 'annotations').rglob('*.png')} == names


@pytest.mark.parametrize('hidden', ['__MACOSX/export/._e.json', 'export/.ipynb_checkpoints/e.json'])
def test_what_a_mac_or_a_notebook_adds_is_not_read(tmp_path, hidden):
    photo(tmp_path / 'a.jpg')
    text = json.dumps(coco(['a.jpg'], ['cat']))
    with zipfile.ZipFile(tmp_path / 'e.zip', 'w') as archive:
        archive.write(tmp_path / 'a.jpg', 'export/a.jpg')
        archive.writestr('export/e.json', text)
        archive.writestr(hidden, text if 'ipynb' in hidden else b'\0\5\x16\7\xb0')
    out = bring(tmp_path / 'e.zip', tmp_path / 'out')
    assert mask(out, 'a.png').any() and not_used(out) == []


def test_an_accent_is_one_in_both_forms(tmp_path):
    name = 'caf\N{LATIN SMALL LETTER E WITH ACUTE}.jpg'
    photo(tmp_path / 'photos' / unicodedata.normalize('NFD', name))
    (tmp_path / 'e.json').write_text(json.dumps(coco([name], ['cat'])))
    out = bring(tmp_path / 'e.json', tmp_path / 'out', images=tmp_path / 'photos')
    (made,) = (out / 'annotations').iterdir()
    assert not_used(out) == [] and mask(out, made.name).any()


def test_a_mask_that_fails_now_does_not_keep_the_numbers_of_before(tmp_path, capsys):
    for name in 'ab':
        photo(tmp_path / f'photos/{name}.jpg')
    export = tmp_path / 'e.json'
    export.write_text(json.dumps(coco(['a.jpg', 'b.jpg'], ['cat', 'dog'])))
    out = bring(export, tmp_path / 'out', images=tmp_path / 'photos')
    assert mask(out, 'b.png').max() == 1
    export.write_text(json.dumps(coco(['a.jpg', 'b.jpg'], ['ant', 'cat', 'dog'], [[1, 1, 2]])))
    with pytest.raises(DataError, match='1 of 2 images could not be brought'):
        bring(export, out, images=tmp_path / 'photos')
    assert mask(out, 'a.png').max() == 2 and not (out / 'annotations/b.png').exists()
    assert 'or could not be brought: annotations/b.png' in capsys.readouterr().out


def test_several_exports_of_masks_are_refused(tmp_path):
    for job, name in (('job1', 'a'), ('job2', 'b')):
        photo(tmp_path / f'photos/{name}.jpg')
        folder = tmp_path / 'exports' / job
        save(folder / f'SegmentationClass/{name}.png', np.zeros((30, 40, 3), np.uint8))
        (folder / 'labelmap.txt').write_text('background:0,0,0::\ncat:250,50,50::\n')
    with pytest.raises(DataError, match=r'exports/job1, \S+exports/job2: name one'):
        bring(tmp_path / 'exports', tmp_path / 'out', images=tmp_path / 'photos')
    out = bring(tmp_path / 'exports/job2', tmp_path / 'out', images=tmp_path / 'photos')
    assert (out / 'annotations/b.png').is_file()


def test_the_layout_of_voc_has_masks_beside_its_xml(tmp_path):
    root = tmp_path / 'VOC2012'
    photo(root / 'JPEGImages/a.jpg')
    save(root / 'SegmentationClass/a.png', numbered(1), [0, 0, 0, 128, 0, 0])
    (root / 'Annotations').mkdir()
    (root / 'Annotations/a.xml').write_text('<annotation><filename>a.jpg</filename></annotation>')
    out = bring(root, tmp_path / 'out')
    assert (mask(out, 'a.png') == numbered(1)).all()


def test_links_to_folders_are_followed_once(tmp_path):
    photo(tmp_path / 'real/a.jpg')
    photo(tmp_path / 'photos/b.jpg')
    (tmp_path / 'photos/day1').symlink_to(tmp_path / 'real')
    (tmp_path / 'photos/loop').symlink_to(tmp_path / 'photos')
    found = [name for _, names in folders_below(tmp_path / 'photos') for name in names]
    assert found == ['b.jpg', 'a.jpg']
    (tmp_path / 'e.json').write_text(json.dumps(coco(['day1/a.jpg', 'b.jpg'], ['cat'])))
    out = bring(tmp_path / 'e.json', tmp_path / 'out', images=tmp_path / 'photos')
    assert not_used(out) == [] and mask(out, 'day1/a.png').any()
