import builtins
import os

import cv2
import numpy as np
import pytest

from mmseg_semi.datasets import check_overlap, find_copies
from mmseg_semi.datasets.near_duplicates import Looks, find_similar


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def files(tmp_path):
    def write(**contents):
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return [str(tmp_path / name) for name in contents]

    return write


def test_copies_links_and_the_same_path(files, tmp_path):
    a, b, c = files(a=b'one', b=b'two', c=b'three')
    x, y = files(x=b'one', y=b'TWO')
    link = tmp_path / 'link'
    link.symlink_to(c)
    found = find_copies([a, b, c, str(tmp_path / 'none')], [x, y, str(link)])
    assert found == {a: x, c: str(link)}
    assert find_copies([a], [a]) == {a: a}
    assert find_copies([a], []) == {} == find_copies([], [a])


def test_files_that_agree_in_size_and_middle_only(files):
    middle = b'm' * 50000
    a, b, c = files(a=b'1' + middle + b'1', b=b'2' + middle + b'1', c=b'1' + middle + b'1')
    assert find_copies([a], [b]) == {}
    assert find_copies([a], [b, c]) == {a: c}


def test_only_other_files_of_equal_size_are_read(files, tmp_path, monkeypatch):
    a, b, c = files(a=b'12', b=b'123', c=b'1234')
    link = tmp_path / 'link'
    link.symlink_to(b)
    monkeypatch.setattr(builtins, 'open', lambda *a, **k: pytest.fail('a file was read'))
    assert find_copies([a, b], [c]) == {}
    assert find_copies([a, b], [c, str(link)]) == {b: str(link)}


def test_hard_links_are_the_same_file(files, tmp_path):
    (a,) = files(a=b'one')
    os.link(a, tmp_path / 'link')
    assert find_copies([str(tmp_path / 'link')], [a]) == {str(tmp_path / 'link'): a}


# -------------------------------------------------------------------------------- parts
def part(images, masks=()):
    """A dataset of files."""
    infos = [dict(img_path=image) for image in images]
    for info, mask in zip(infos, masks):
        info['seg_map_path'] = mask

    class Part:
        get_data_info = staticmethod(infos.__getitem__)
        __len__ = staticmethod(infos.__len__)

    return Part()


def test_heldout_images_are_errors_and_labeled_ones_counted(files):
    u = files(**{f'u{i}': b'image %d' % i for i in range(9)})
    labeled = part(files(l0=b'image 0', l1=b'image 8'))
    found = check_overlap(labeled, part(u), [])
    assert found.errors == []
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith('2 images of the unlabeled part are labeled images too')
    held = files(**{f'v{i}': b'image %d' % i for i in range(1, 8)})
    found = check_overlap(labeled, part(u), [part(held[:3]), part(held[3:])])
    assert len(found.errors) == 1
    start = 'unlabeled: 7 of 9 images are validation or test images, so scores would not be honest'
    assert found.errors[0].startswith(f'{start}: {u[1]} (= {held[0]}), ')
    assert 'and 2 more. Take them out' in found.errors[0]
    found = check_overlap(labeled, part(u), [part([u[3]])])
    assert (
        f'1 of 9 images are validation or test images, so scores would not be honest: {u[3]}. '
        in (found.errors[0])
    )


def test_labeled_images_and_masks_that_are_held_out(files):
    labeled = files(l0=b'0', l1=b'1', l2=b'2')
    masks, others = files(m0=b'a', m1=b'b', m2=b'c'), files(n0=b'x', n1=b'y', n2=b'z')
    held = files(v=b'1')
    for unlabeled in (None, part([])):
        found = check_overlap(part(labeled, masks), unlabeled, [part(held, others)])
        assert len(found.errors) == 1
        assert found.errors[0].startswith('labeled: 1 of 3 images are validation or test images')
        assert f'honest: {labeled[1]} (= {held[0]}). Take' in found.errors[0]
        assert "on_overlap='warn' in custom_hooks." in found.errors[0]
    found = check_overlap(part(labeled, masks), None, [part(files(v=b'9'), [masks[2]])])
    assert len(found.errors) == 1
    assert 'labeled: 1 of 3 masks are validation or test masks' in found.errors[0]
    assert masks[2] in found.errors[0]


@pytest.fixture
def pictures(tmp_path):
    """Different smooth pictures of 96 x 64."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(6):
        pixels = cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (96, 64))
        paths.append(str(tmp_path / f'l{i}.png'))
        cv2.imwrite(paths[-1], pixels)
    return paths


@pytest.mark.parametrize(
    ('suffix', 'size', 'brighter'),
    [('.jpg', (96, 64), 0), ('.webp', (96, 64), 0), ('.png', (48, 32), 0), ('.bmp', (150, 90), 4)],
)
def test_images_that_were_saved_anew_are_found(pictures, tmp_path, suffix, size, brighter):
    pixels = cv2.resize(cv2.imread(pictures[2]), size)
    other = str(tmp_path / f'v{suffix}')
    cv2.imwrite(other, cv2.add(pixels, (brighter,) * 3))
    looks = [Looks(paths) for paths in (pictures, [pictures[1], other], pictures[:1], pictures[1:])]
    assert find_similar(looks[0], looks[1]) == {pictures[2]: other}  # a file is no copy of itself
    assert find_similar(looks[2], looks[3]) == {}
    found = check_overlap(part(pictures), None, [part([other])])
    assert found.errors == []
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith('labeled: 1 images or masks look like validation or test')
    assert f'{pictures[2]} and {other}. ' in found.warnings[0]


def test_images_of_one_color_and_broken_ones_are_like_nothing(tmp_path):
    paths = [str(tmp_path / f'{name}.png') for name in 'abc']
    for path in paths[:2]:
        cv2.imwrite(path, np.full((32, 32), 100, np.uint8))
    (tmp_path / 'c.png').write_bytes(b'')
    looks, none = Looks(paths), Looks([])
    assert find_similar(looks, looks) == {}
    assert find_similar(none, looks) == find_similar(looks, none) == {}


def test_copies_of_masks_with_several_values_are_a_warning(pictures, tmp_path):
    masks = [str(tmp_path / f'm{i}.png') for i in range(4)]
    for path, mask in zip(masks, (np.eye(9), np.zeros((9, 9)), np.eye(9), np.zeros((9, 9)))):
        cv2.imwrite(path, mask.astype(np.uint8))
    found = check_overlap(part(pictures[:2], masks[:2]), None, [part(pictures[2:4], masks[2:])])
    assert found.errors == []
    assert len(found.warnings) == 1
    assert f'honest: {masks[0]} and {masks[2]}. ' in found.warnings[0]
