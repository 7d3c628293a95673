"""Boxes of connected components: against a flood fill, one pixel at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_semi.functional.components import masks_to_boxes

DTYPES = (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64)
TORCH_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def flood_fill(rows, classes, min_area=0, connectivity=8):
    """Fill from every pixel in raster order; the visited pixels give the box."""
    height, width = len(rows), len(rows[0]) if rows else 0
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if connectivity == 8:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    boxes, visited = [], set()
    for one in classes:
        for start in ((y, x) for y in range(height) for x in range(width)):
            if rows[start[0]][start[1]] != one or start in visited:
                continue
            component, border = {start}, [start]
            while border:
                y, x = border.pop()
                for dy, dx in steps:
                    v, u = y + dy, x + dx
                    inside = 0 <= v < height and 0 <= u < width
                    if inside and rows[v][u] == one and (v, u) not in component:
                        component.add((v, u))
                        border.append((v, u))
            visited |= component
            ys, xs = [y for y, _ in component], [x for _, x in component]
            if len(component) >= min_area:
                boxes.append((one, min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return boxes


@st.composite
def maps(draw):
    """Small maps with much contact: few values, and patches of one value."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    source = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.sampled_from([[0, 1], [0, 1, 2], [0, 3, 7, 100], [5]]))
    block = draw(st.integers(1, 4))
    seg_map = np.repeat(np.repeat(source.choice(values, (height, width)), block, 0), block, 1)
    noisy = source.random(seg_map.shape) < draw(st.sampled_from([0, 0.1, 0.5]))
    return np.where(noisy, source.choice(values, seg_map.shape), seg_map)


@settings(max_examples=300, deadline=None)
@given(
    maps(),
    st.permutations([0, 1, 2, 3, 7, 100]),
    st.integers(0, 6),
    st.integers(0, 9),
    st.sampled_from([4, 8]),
    st.sampled_from(DTYPES + TORCH_DTYPES),
)
def test_boxes_are_those_of_a_flood_fill(seg_map, order, number, min_area, connectivity, dtype):
    classes = order[:number]
    expected = flood_fill(seg_map.tolist(), classes, min_area, connectivity)
    if dtype in TORCH_DTYPES:
        given_map = torch.from_numpy(seg_map).to(dtype)
    else:
        given_map = seg_map.astype(dtype)
    before = given_map.copy() if isinstance(given_map, np.ndarray) else given_map.clone()
    found = masks_to_boxes(given_map, classes, min_area, connectivity)
    assert found == expected
    assert (given_map == before).all()
    assert all(type(number) is int for box in found for number in box)


@pytest.mark.parametrize('connectivity', [4, 8])
def test_large_fragmented_maps(connectivity):
    source = np.random.default_rng(connectivity)
    seg_map = np.kron(source.integers(0, 5, (9, 11)), np.ones((13, 17), int))
    noisy = source.random(seg_map.shape) < 0.2
    seg_map[noisy] = source.integers(0, 5, noisy.sum())
    for min_area in (0, 30):
        expected = flood_fill(seg_map.tolist(), range(4), min_area, connectivity)
        assert masks_to_boxes(seg_map, range(4), min_area, connectivity) == expected
    assert len(expected) > 10


def spiral(side):
    """A path one pixel wide that winds to the middle: hard for whoever joins runs step by step."""
    seg_map, place, step = np.zeros((side, side), np.uint8), [0, 0], (0, 1)
    seg_map[0, 0] = 1

    def free(y, x):
        return not (0 <= y < side and 0 <= x < side) or not seg_map[y, x]

    while True:
        for _ in range(2):
            y, x = place[0] + step[0], place[1] + step[1]
            inside = 0 <= y < side and 0 <= x < side
            if inside and not seg_map[y, x] and free(y + step[0], x + step[1]):
                break
            step = (step[1], -step[0])
        else:
            return seg_map
        place = [y, x]
        seg_map[y, x] = 1


@pytest.mark.parametrize('connectivity', [4, 8])
def test_spirals_and_combs(connectivity):
    comb = np.zeros((30, 41), np.uint8)
    comb[:, ::2] = 1
    joined_below, joined_above = comb.copy(), comb.copy()
    joined_below[-1], joined_above[0] = 1, 1
    for seg_map in (
        spiral(41),
        spiral(41).T,
        comb,
        joined_below,
        joined_above,
        np.eye(20, dtype=int),
    ):
        for one in (seg_map, seg_map[::-1], seg_map[:, ::-1]):
            expected = flood_fill(one.tolist(), (0, 1), 0, connectivity)
            assert masks_to_boxes(one, (0, 1), 0, connectivity) == expected
    assert len(masks_to_boxes(spiral(41), (1,), 0, connectivity)) == 1
    assert len(masks_to_boxes(comb, (1,), 0, connectivity)) == 21


def test_diagonals_of_two_classes_cross():
    seg_map = np.array([[1, 2, 0], [2, 1, 0], [0, 0, 2]], np.uint8)
    assert masks_to_boxes(seg_map, (2, 1)) == [(2, 0, 0, 2, 2), (2, 2, 2, 3, 3), (1, 0, 0, 2, 2)]
    assert masks_to_boxes(seg_map, (2, 1), connectivity=4) == [
        (2, 1, 0, 2, 1),
        (2, 0, 1, 1, 2),
        (2, 2, 2, 3, 3),
        (1, 0, 0, 1, 1),
        (1, 1, 1, 2, 2),
    ]


def test_ends_of_rows_do_not_touch_the_next_rows_begin():
    seg_map = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    for connectivity in (4, 8):
        found = masks_to_boxes(seg_map, (1,), connectivity=connectivity)
        assert found == [(1, 2, 0, 3, 1), (1, 0, 1, 1, 2), (1, 2, 2, 3, 3), (1, 0, 3, 1, 4)]


def test_min_area_counts_pixels_not_the_box():
    seg_map = np.zeros((6, 6), np.uint8)
    seg_map[0], seg_map[:, 0] = 1, 1  # 11 pixels in a box of 36
    assert masks_to_boxes(seg_map, (1,), 11) == [(1, 0, 0, 6, 6)]
    assert masks_to_boxes(seg_map, (1,), 12) == []


def test_ignored_and_other_pixels_give_nothing_and_separate():
    seg_map = np.array([[1, 255, 1, 9, 1]], np.uint8)
    assert masks_to_boxes(seg_map, (1,)) == [(1, 0, 0, 1, 1), (1, 2, 0, 3, 1), (1, 4, 0, 5, 1)]
    assert masks_to_boxes(seg_map, ()) == [] and masks_to_boxes(seg_map, (0, 8)) == []
    assert masks_to_boxes(seg_map, (255,), ignore_index=0) == [(255, 1, 0, 2, 1)]
    assert masks_to_boxes(seg_map, (300,)) == []


@pytest.mark.parametrize('size', [(0, 0), (0, 5), (5, 0)])
def test_empty_maps(size):
    assert masks_to_boxes(np.zeros(size, int), (0, 1)) == []
    assert masks_to_boxes(torch.zeros(size, dtype=torch.long), (0, 1)) == []


def test_strided_and_byte_swapped_maps():
    whole = np.random.default_rng(0).integers(0, 3, (20, 24))
    expected = flood_fill(whole[::2, 1::3].tolist(), (0, 1, 2))
    assert masks_to_boxes(whole[::2, 1::3], (0, 1, 2)) == expected
    assert masks_to_boxes(whole[::2, 1::3].astype('>i4'), [np.int64(0), 1, 2]) == expected
    assert masks_to_boxes(torch.from_numpy(whole)[::2, 1::3], (0, 1, 2)) == expected


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(seg_map=np.zeros((1, 4, 4), int)), r'\(H, W\), got int64 \(1, 4, 4\)'),
        (dict(seg_map=torch.zeros(4, dtype=torch.long)), r'\(H, W\), got int64 \(4,\)'),
        (dict(seg_map=np.zeros((4, 4))), 'integers .* got float64'),
        (dict(seg_map=torch.zeros(4, 4)), 'integers .* got float32'),
        (dict(seg_map=np.zeros((4, 4), bool)), 'integers .* got bool'),
        (dict(seg_map=[[0, 1]]), 'array or tensor .*list'),
        (dict(classes=3), 'classes must be'),
        (dict(classes='01'), 'classes must be'),
        (dict(classes={0, 1}), 'classes must be'),
        (dict(classes=(0, -1)), r'classes must be .*-1'),
        (dict(classes=(0, 1.0)), 'classes must be'),
        (dict(classes=(0, True)), 'classes must be'),
        (dict(classes=(0, 1, 0)), 'once'),
        (dict(classes=(0, 255)), 'ignore_index=255'),
        (dict(classes=(0, 7), ignore_index=7), 'ignore_index=7'),
        (dict(connectivity=6), r'connectivity must be one of \(4, 8\), got 6'),
        (dict(min_area=-1), 'min_area must be a number >= 0, got -1'),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        masks_to_boxes(**{**dict(seg_map=np.zeros((4, 4), int), classes=(0, 1)), **change})
