"""CVAT's two forms, written as its documentation lays them out."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from label_exports import boxes, bring, classes, mask, not_used, photo
from PIL import Image

from mmseg_semi.errors import DataError

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')

H, W = 30, 40
LABEL_MAP = """# label:color_rgb:parts:actions
dog:20,20,220::
background:0,0,0::
cat:250,50,50::
"""


# ------------------------------------------------------------------------------ segmentation mask
@pytest.fixture
def masks(tmp_path):
    """Two dogs and a cat in a.png, nothing in b.png, c.png only in the images."""
    source = tmp_path / 'export'
    for seed, name in enumerate(('a.jpg', 'b.png', 'c.png')):
        photo(source / 'JPEGImages' / name, W, H, seed=seed)
    kinds, objects = np.zeros((2, H, W, 3), np.uint8)
    for number, (color, x, y) in enumerate(
        [((20, 20, 220), 0, 0), ((20, 20, 220), 5, 0), ((250, 50, 50), 20, 10)], 1
    ):
        kinds[y : y + 4, x : x + 5] = color
        objects[y : y + 4, x : x + 5] = number * 40
    for folder, array in (('SegmentationClass', kinds), ('SegmentationObject', objects)):
        (source / folder).mkdir()
        Image.fromarray(array).save(source / folder / 'a.png')
        Image.fromarray(array * 0).save(source / folder / 'b.png')
    (source / 'labelmap.txt').write_text(LABEL_MAP)
    (source / 'ImageSets/Segmentation').mkdir(parents=True)
    (source / 'ImageSets/Segmentation/default.txt').write_text('a\nb\n')
    return source


def wanted_mask():
    wanted = np.zeros((H, W), np.uint8)
    wanted[0:4, 0:10] = 1
    wanted[10:14, 20:25] = 2
    return wanted


def test_colors_decide_and_not_the_lines_of_the_label_map(masks, tmp_path):
    out = bring(masks, tmp_path / 'out')
    assert classes(out) == ['background', 'dog', 'cat']
    np.testing.assert_array_equal(mask(out, 'a.png'), wanted_mask())
    assert not mask(out, 'b.png').any()
    assert not (out / 'annotations/c.png').exists() and (out / 'images/c.png').exists()
    assert boxes(out) == [
        ('a.jpg', 'dog', [0, 0, 5, 4], 0),
        ('a.jpg', 'dog', [5, 0, 5, 4], 0),
        ('a.jpg', 'cat', [20, 10, 5, 4], 0),
    ]
    assert not not_used(out)


def test_a_zip_without_images(masks, tmp_path):
    with zipfile.ZipFile(tmp_path / 'export.zip', 'w') as archive:
        for path in masks.rglob('*'):
            if 'JPEG' not in str(path):
                archive.write(path, path.relative_to(masks))
    with pytest.raises(DataError, match='none of the images of the export.*--images'):
        bring(tmp_path / 'export.zip', tmp_path / 'out')
    out = bring(tmp_path / 'export.zip', tmp_path / 'out', images=masks / 'JPEGImages')
    np.testing.assert_array_equal(mask(out, 'a.png'), wanted_mask())


def test_background_is_black_though_no_line_says_so(masks, tmp_path):
    (masks / 'labelmap.txt').write_text('cat:250,50,50::\ndog:20,20,220::\n')
    out = bring(masks, tmp_path / 'out')
    assert classes(out) == ['background', 'cat', 'dog']
    np.testing.assert_array_equal(mask(out, 'a.png'), np.array([0, 2, 1])[wanted_mask()])


def test_a_color_without_a_line_is_unknown(masks, tmp_path):
    (masks / 'labelmap.txt').write_text('cat:250,50,50::\n')
    out = bring(masks, tmp_path / 'out')
    np.testing.assert_array_equal(mask(out, 'a.png'), np.array([0, 255, 1])[wanted_mask()])
    assert any('40 pixels of the color #1414dc are of no class' in one for one in not_used(out))


@pytest.mark.parametrize('line', ['cat', 'cat:::', 'cat:1,2::', 'cat:1,2,256::', 'dog:1,1,1::'])
def test_bad_lines_of_the_label_map_are_named(masks, tmp_path, line):
    (masks / 'labelmap.txt').write_text(f'{LABEL_MAP}{line}\n')
    with pytest.raises(DataError, match=f"labelmap.txt, line 5: '{line}' must"):
        bring(masks, tmp_path / 'out')


# --------------------------------------------------------------------------------- CVAT for images
def write_xml(folder, images, labels=('cat', 'dog')):
    """An export with ``images``: name, width, height and shapes."""
    meta = ''.join(
        f'<label><name>{name}</name><color>#0{number}0203</color><type>any</type></label>'
        for number, name in enumerate(labels)
    )
    body = ''.join(
        f'<image id="{number}" name="{name}" width="{width}" height="{height}">{shapes}</image>'
        for number, (name, width, height, shapes) in enumerate(images)
    )
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f'<meta><task><labels>{meta}</labels></task></meta>{body}</annotations>'
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'annotations.xml').write_text(text)
    return folder


def polygon(label, points, z=0):
    text = ';'.join(f'{x:.2f},{y:.2f}' for x, y in points)
    return f'<polygon label="{label}" occluded="0" points="{text}" z_order="{z}"></polygon>'


def box(label, x1, y1, x2, y2, z=0, extra=''):
    return (
        f'<box label="{label}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="{z}" {extra}>'
        '<attribute name="color">red</attribute></box>'
    )


def cvat_mask(label, inside, left, top, z=0):
    counts, value = [0], False
    for pixel in inside.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    height, width = inside.shape
    return (
        f'<mask label="{label}" rle="{", ".join(map(str, counts))}" left="{left}" top="{top}" '
        f'width="{width}" height="{height}" z_order="{z}"></mask>'
    )


def test_shapes_are_drawn_the_z_order_first(tmp_path):
    source = tmp_path / 'export'
    photo(source / 'images/sub/a.png', W, H)
    photo(source / 'images/b.png', W, H)
    inside = np.random.default_rng(0).random((6, 9)) < 0.5
    shapes = (
        box('dog', 2, 2, 6, 6)
        + box('cat', 0, 0, 12, 10)  # larger, so below
        + box('cat', 20, 0, 36, 10, z=1)  # above, though larger
        + box('dog', 22, 2, 26, 6)
        + cvat_mask('dog', inside, 3, 15, z=2)
        + polygon('cat', [(20, 15), (30, 15), (30, 25), (20, 25)])
        + '<points label="cat" points="1.0,1.0"></points>'
    )
    write_xml(source, [('sub/a.png', W, H, shapes), ('b.png', W, H, '')])
    out = bring(source, tmp_path / 'out')
    wanted = np.zeros((H, W), np.uint8)
    wanted[0:10, 0:12] = 1
    wanted[2:6, 2:6] = 2
    wanted[0:10, 20:36] = 1
    wanted[15:25, 20:30] = 1
    wanted[15:21, 3:12][inside] = 2
    np.testing.assert_array_equal(mask(out, 'sub/a.png'), wanted)
    assert not mask(out, 'b.png').any()
    assert classes(out) == ['background', 'cat', 'dog']
    assert boxes(out)[:2] == [
        ('sub/a.png', 'dog', [2, 2, 4, 4], 0),
        ('sub/a.png', 'cat', [0, 0, 12, 10], 0),
    ]
    (note,) = not_used(out)
    assert 'image sub/a.png, points number 7: a points has no pixels' in note


def test_turned_boxes_and_ellipses(tmp_path):
    source = tmp_path / 'export'
    photo(source / 'images/a.png', W, H)
    shapes = box('cat', 10, 10, 20, 14, extra='rotation="90.0"')
    shapes += '<ellipse label="dog" cx="30" cy="15" rx="6" ry="3" rotation="90"></ellipse>'
    write_xml(source, [('a.png', W, H, shapes)])
    found = mask(bring(source, tmp_path / 'out'), 'a.png')
    wanted = np.zeros((H, W), bool)
    wanted[7:17, 13:17] = True
    np.testing.assert_array_equal(found == 1, wanted)
    y, x = np.mgrid[:H, :W] + 0.5
    distance = ((x - 30) / 3) ** 2 + ((y - 15) / 6) ** 2
    assert (found[distance < 0.7] == 2).all() and not (found[distance > 1.4] == 2).any()


@pytest.mark.parametrize(
    'shapes, message',
    [
        ('<box label="cat" xtl="1"></box>', "image a.png, box number 1: 'ytl' is missing"),
        ('<polygon label="cat" points="1,x;2,2;3,3"></polygon>', 'polygon number 1: could not'),
        ('<polygon points="1,1;2,2;3,3"></polygon>', "polygon number 1: 'label' is missing"),
        (
            '<mask label="cat" rle="3, 2" left="0" top="0" width="3" height="3"></mask>',
            'mask number 1: rle has 5 pixels and must have 3 x 3',
        ),
        (
            '<mask label="cat" rle="0, 9" left="39" top="0" width="3" height="3"></mask>',
            'must be in the image',
        ),
    ],
)
def test_bad_shapes_are_named(tmp_path, shapes, message):
    source = tmp_path / 'export'
    photo(source / 'images/a.png', W, H)
    write_xml(source, [('a.png', W, H, shapes)])
    with pytest.raises(DataError, match=message) as error:
        bring(source, tmp_path / 'out')
    assert 'annotations.xml, image a.png' in str(error.value)


def test_videos_and_broken_files_are_refused(tmp_path):
    source = tmp_path / 'export'
    source.mkdir()
    (source / 'annotations.xml').write_text('<annotations><track id="0"/></annotations>')
    with pytest.raises(DataError, match="has tracks of a video.*'CVAT for images'"):
        bring(source, tmp_path / 'out')
    (source / 'annotations.xml').write_text('<annotations><image')
    with pytest.raises(DataError, match='annotations.xml cannot be read'):
        bring(source, tmp_path / 'out')
