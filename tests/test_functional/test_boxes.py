"""Maps of boxes: against a plain mask of each class, one pixel and one box at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_semi.functional import box_agreement, pack_boxes

CLASS_COUNTS = [1, 8, 9, 21, 81]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_planes(boxes, classes, num_classes, size):
    """Bool (K, H, W): whether the center of a pixel lies inside a box of the class."""
    planes = torch.zeros(num_classes, *size, dtype=torch.bool)
    for (x1, y1, x2, y2), one in zip(boxes, classes):
        for y in range(size[0]):
            for x in range(size[1]):
                planes[one, y, x] |= x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2
    return planes


def unpack(packed, num_classes):
    """Bool (K, H, W) of uint8 (bytes, H, W); the bits that no class has must be 0."""
    bits = [bool(value >> bit & 1) for bit in range(8) for value in packed.flatten().tolist()]
    planes = torch.tensor(bits).view(8, *packed.shape).transpose(0, 1).flatten(0, 1)
    assert not planes[num_classes:].any()
    return planes[:num_classes]


def slow_agreement(label, planes):
    """Look up each pixel's class in the planes (B, K, H, W)."""
    found = torch.zeros(label.shape, dtype=torch.bool)
    for b, image in enumerate(label.tolist()):
        for y, row in enumerate(image):
            for x, one in enumerate(row):
                found[b, y, x] = 0 <= one < planes.shape[1] and planes[b, one, y, x]
    return found


def draw_boxes(num, num_classes, size, source):
    """Boxes with fractions, some partly or wholly outside, some empty; and their classes."""
    span = torch.tensor([size[1], size[0], size[1], size[0]])
    boxes = (torch.rand(num, 4, generator=source) * 2 - 0.5) * span
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + (boxes[:, 2:] / 2)], dim=1)
    rounded = torch.rand(num, 1, generator=source) < 0.5
    boxes = torch.where(rounded, (boxes * 2).round() / 2, boxes)
    return boxes, torch.randint(0, num_classes, (num,), generator=source)


# --------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize('num_classes', CLASS_COUNTS)
def test_a_packed_map_is_a_plane_of_each_class(num_classes):
    for seed, size in enumerate([(7, 11), (11, 7), (1, 9), (5, 1)]):
        boxes, classes = draw_boxes(25, num_classes, size, generator(seed))
        packed = pack_boxes(boxes, classes, num_classes, size)
        assert packed.dtype == torch.uint8
        assert packed.shape == ((num_classes + 7) // 8, *size)
        wanted = slow_planes(boxes.tolist(), classes.tolist(), num_classes, size)
        assert torch.equal(unpack(packed, num_classes), wanted)


coordinates = st.one_of(
    st.integers(-9, 15), st.integers(-18, 30).map(lambda x: x / 2), st.floats(-20, 20, width=32)
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    boxes=st.lists(st.tuples(*[coordinates] * 4, st.integers(0, 9)), max_size=4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_boxes(boxes, height, width, dtype):
    corners = torch.tensor([one[:4] for one in boxes], dtype=dtype).view(-1, 4)
    classes = torch.tensor([one[4] for one in boxes], dtype=torch.int64)
    packed = pack_boxes(corners, classes, 10, (height, width))
    wanted = slow_planes(corners.tolist(), classes.tolist(), 10, (height, width))
    assert torch.equal(unpack(packed, 10), wanted)


def test_boxes_by_hand():
    def columns(x1, x2):
        return pack_boxes(torch.tensor([[x1, 0, x2, 1]]), torch.tensor([0]), 1, (1, 6)).flatten()

    assert columns(1, 4).tolist() == [0, 1, 1, 1, 0, 0]
    assert columns(1.4, 4.4).tolist() == [0, 1, 1, 1, 0, 0]
    assert columns(1.6, 4.6).tolist() == [0, 0, 1, 1, 1, 0]
    assert columns(-3, 2).tolist() == [1, 1, 0, 0, 0, 0]
    assert columns(4, 90).tolist() == [0, 0, 0, 0, 1, 1]
    for nothing in ((3, 3), (4, 1), (-5, -1), (6, 9), (2.6, 3.4)):
        assert not columns(*nothing).any()
    stacked = pack_boxes(
        torch.tensor([[0, 0, 2, 1], [1, 0, 3, 1], [0, 0, 1, 1.0]]),
        torch.tensor([0, 9, 9]),
        10,
        (1, 3),
    )
    assert stacked.tolist() == [[[1, 1, 0]], [[2, 2, 2]]]


@pytest.mark.parametrize('far', [1e10, 1e30, float('inf')])
def test_boxes_that_reach_far_outside_are_cut_off(far):
    boxes = torch.tensor([[1, -far, far, far], [-far, 1, 1, far]], dtype=torch.float64)
    packed = pack_boxes(boxes, torch.tensor([0, 1]), 2, (2, 3))
    assert packed.tolist() == [[[0, 1, 1], [2, 1, 1]]]


def test_no_boxes_at_all():
    packed = pack_boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 9, (3, 4))
    assert packed.shape == (2, 3, 4) and not packed.any()


# ------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize('num_classes', CLASS_COUNTS)
def test_agreement_is_the_plane_of_the_label(num_classes):
    source, size = generator(num_classes), (9, 13)
    drawn = [draw_boxes(4 * num_classes, num_classes, size, source) for _ in range(3)]
    packed = torch.stack([pack_boxes(*one, num_classes, size) for one in drawn])
    planes = [slow_planes(a.tolist(), b.tolist(), num_classes, size) for a, b in drawn]
    label = torch.randint(-2, num_classes, (3, *size), generator=source)
    label[torch.rand(label.shape, generator=source) < 0.1] = 255
    before = [label.clone(), packed.clone()]
    found, wanted = box_agreement(label, packed), slow_agreement(label, torch.stack(planes))
    assert found.dtype == torch.bool and torch.equal(found, wanted)
    assert wanted.any() and not wanted.all()
    assert torch.equal(label, before[0]) and torch.equal(packed, before[1])
    strided = packed.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert torch.equal(box_agreement(label.transpose(1, 2).contiguous().mT, strided), wanted)


def test_each_bit_is_one_class():
    packed = torch.zeros(1, 3, 1, 24, dtype=torch.uint8)
    for one in range(24):
        packed[0, one // 8, 0, one] = 2 ** (one % 8)
    for label in range(-3, 30):
        wanted = [label == one for one in range(24)]
        assert box_agreement(torch.full((1, 1, 24), label), packed).flatten().tolist() == wanted


@pytest.mark.parametrize('num_bytes', [1, 3, 11, 31])
def test_ignored_labels_agree_with_nothing(num_bytes):
    packed = torch.full((1, num_bytes, 2, 2), 255, dtype=torch.uint8)
    for label in (255, -1, -8, -255, 8 * num_bytes, 2**40):
        assert not box_agreement(torch.full((1, 2, 2), label), packed).any()
    for label in (0, 8 * num_bytes - 1):
        assert box_agreement(torch.full((1, 2, 2), label), packed).all()


@pytest.mark.parametrize('num_bytes', [3, 16, 32])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_small_integers(dtype, num_bytes):
    source = generator(num_bytes)
    packed = torch.randint(0, 256, (1, num_bytes, 6, 6), generator=source, dtype=torch.uint8)
    label = torch.randint(0, min(8 * num_bytes, 120), (1, 6, 6), generator=source)
    wanted = box_agreement(label, packed)
    assert wanted.any() and torch.equal(box_agreement(label.to(dtype), packed), wanted)


@pytest.mark.parametrize(
    ('label', 'boxes', 'message'),
    [
        ((2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.uint8), r'boxes must be .*\(2, 3, 4\)'),
        ((2, 3, 4), torch.zeros(2, 1, 3, 4, dtype=torch.int64), 'boxes must be uint8.*int64'),
        ((2, 3, 4), torch.zeros(2, 1, 3, 4, dtype=torch.bool), 'boxes must be uint8.*bool'),
        ((1, 3, 4), None, r'shape \(2, 3, 4\), got torch.int64 \(1, 3, 4\)'),
        ((2, 4, 3), None, r'got torch.int64 \(2, 4, 3\)'),
        ((2, 1, 3, 4), None, r'\(2, 1, 3, 4\)'),
        ((3, 4), None, r'\(3, 4\)'),
    ],
)
def test_shapes_and_types_that_do_not_fit_are_refused(label, boxes, message):
    boxes = torch.zeros(2, 1, 3, 4, dtype=torch.uint8) if boxes is None else boxes
    with pytest.raises(ValueError, match=message):
        box_agreement(torch.zeros(label, dtype=torch.int64), boxes)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_labels_must_be_integers(dtype):
    boxes = torch.zeros(2, 1, 3, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match='label must be integers.*float'):
        box_agreement(torch.zeros(2, 3, 4, dtype=dtype), boxes)


# --------------------------------------------------------------------------------------- devices


def test_nothing_is_read_back_from_the_device():
    """Fake tensors have no values: whatever would wait for the device raises here."""
    with FakeTensorMode():
        label = torch.zeros(2, 5, 6, dtype=torch.int64)
        agreed = box_agreement(label, torch.zeros(2, 3, 5, 6, dtype=torch.uint8))
        assert agreed.shape == (2, 5, 6) and agreed.dtype == torch.bool


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda_gives_the_same_without_waiting():
    packed = torch.randint(0, 256, (2, 3, 9, 11), generator=generator(1), dtype=torch.uint8)
    label = torch.randint(-2, 30, (2, 9, 11), generator=generator(2))
    wanted, moved = box_agreement(label, packed), (label.cuda(), packed.cuda())
    box_agreement(*moved)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        found = box_agreement(*moved)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert torch.equal(found.cpu(), wanted)
