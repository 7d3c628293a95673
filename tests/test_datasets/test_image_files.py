"""What the loader makes of unusual images, and how broken files are found."""

import io
import struct
import zlib

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from mmseg_semi.datasets.image_files import bit_depth, stored_size, unreadable_reason

RNG = np.random.default_rng(0)
BGR = cv2.GaussianBlur(RNG.integers(0, 256, (48, 40, 3), dtype=np.uint8), (5, 5), 2)
GRAY = BGR[..., 0]


def cv_bytes(suffix, pixels):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def pil_bytes(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


WIDE = RNG.integers(0, 65536, (48, 40), dtype=np.uint16)
WIDE_BGR = RNG.integers(0, 65536, (48, 40, 3), dtype=np.uint16)
ALPHA = np.dstack([BGR, np.full((48, 40), 7, np.uint8)])
PALETTE = Image.fromarray(BGR[..., ::-1]).quantize(16)


@pytest.mark.parametrize(
    ('data', 'expected'),
    [
        (cv_bytes('.png', GRAY), np.dstack([GRAY] * 3)),
        (cv_bytes('.png', ALPHA), BGR),  # alpha is dropped, not blended
        (cv_bytes('.tiff', ALPHA), BGR),
        (cv_bytes('.png', WIDE), np.dstack([WIDE // 256] * 3)),
        (cv_bytes('.tiff', WIDE), np.dstack([WIDE // 256] * 3)),
        (cv_bytes('.png', WIDE_BGR), WIDE_BGR // 256),
        (pil_bytes(PALETTE, 'PNG'), np.array(PALETTE.convert('RGB'))[..., ::-1]),
        (pil_bytes(Image.fromarray(GRAY > 99), 'PNG'), np.dstack([(GRAY > 99) * 255] * 3)),
    ],
    ids=['gray', 'rgba', 'rgba-t', 'gray16', 'gray16-t', 'rgb16', 'palette', 'bits'],
)
def test_the_loader_makes_three_8_bit_channels(data, expected):
    image = mmcv.imfrombytes(data)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


def test_16_bit_color_tiff_is_within_one_level_of_the_upper_bits():
    image = mmcv.imfrombytes(cv_bytes('.tiff', WIDE_BGR))
    assert np.abs(image.astype(int) - WIDE_BGR // 256).max() <= 1  # rounds value / 257


@pytest.mark.parametrize(
    ('suffix', 'pixels', 'bits'),
    [
        ('.png', GRAY, 8),
        ('.png', WIDE, 16),
        ('.png', WIDE_BGR, 16),
        ('.tiff', BGR, 8),
        ('.tiff', WIDE, 16),
        ('.tiff', WIDE_BGR, 16),
        ('.tiff', GRAY.astype(np.float32), 32),
        ('.jpg', BGR, None),
    ],
)
def test_bit_depth(tmp_path, suffix, pixels, bits):
    path = tmp_path / f'a{suffix}'
    path.write_bytes(cv_bytes(suffix, pixels))
    assert bit_depth(str(path)) == bits


JPEG, PNG = cv_bytes('.jpg', BGR), cv_bytes('.png', BGR)
# A segment with a thumbnail, which has an end marker of its own.
THUMBNAIL = JPEG[:2] + b'\xff\xe1\x00\x08xx\xff\xd9yy' + JPEG[2:]


@pytest.mark.parametrize(
    ('data', 'sound'),
    [
        (JPEG, True),
        (JPEG + b'\0' * 100, True),
        (JPEG[: len(JPEG) // 2], False),
        (JPEG[:-2], False),
        (THUMBNAIL, True),
        (THUMBNAIL[:-2], False),
        (JPEG[:3], False),
        (PNG, True),
        (PNG + b'more', True),
        (PNG[: len(PNG) // 2], False),
        (PNG[:-12], False),
        (b'', False),
        (cv_bytes('.bmp', BGR), True),
    ],
)
def test_files_that_end_too_early(tmp_path, data, sound):
    path = tmp_path / 'image'
    path.write_bytes(data)
    reason = unreadable_reason(str(path))
    assert (reason is None) == sound
    if sound:
        assert mmcv.imfrombytes(data).shape == BGR.shape
    else:
        assert 'ends too early' in reason or 'is empty' in reason


def test_missing_file(tmp_path):
    assert 'No such file' in unreadable_reason(str(tmp_path / 'none.png'))


# ------------------------------------------------------------------------------- huge images
@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif', 'bmp', 'webp'])
def test_the_stored_size_is_that_of_the_pixels(suffix, tmp_path):
    path = tmp_path / f'x.{suffix}'
    Image.new('RGB', (37, 21)).save(path)
    with open(path, 'rb') as file:
        assert stored_size(file) == (37, 21)


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif', 'bmp', 'webp'])
def test_images_of_too_many_pixels_are_refused(suffix, tmp_path, monkeypatch):
    path = tmp_path / f'x.{suffix}'
    Image.new('RGB', (37, 21)).save(path)
    monkeypatch.setenv('MMSEG_SEMI_MAX_PIXELS', '776')
    assert unreadable_reason(str(path)) == (
        'it has 37 x 21 pixels, more than the 776 that are allowed; the environment variable '
        'MMSEG_SEMI_MAX_PIXELS raises that'
    )
    monkeypatch.setenv('MMSEG_SEMI_MAX_PIXELS', '777')
    assert unreadable_reason(str(path)) is None
    monkeypatch.setenv('MMSEG_SEMI_MAX_PIXELS', 'many')
    with pytest.raises(ValueError, match="MMSEG_SEMI_MAX_PIXELS must be a whole number.*'many'"):
        unreadable_reason(str(path))


def test_a_small_file_of_a_huge_image_is_refused(tmp_path):
    """30000 x 30000 pixels in a few bytes."""
    header = struct.pack('>IIBBBBB', 30000, 30000, 8, 2, 0, 0, 0)
    chunks = b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in ((b'IHDR', header), (b'IDAT', zlib.compress(b'')), (b'IEND', b''))
    )
    (tmp_path / 'x.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunks)
    assert unreadable_reason(str(tmp_path / 'x.png')).startswith('it has 30000 x 30000 pixels')
