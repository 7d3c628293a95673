"""Images of any number of channels are loaded to the pixel, and refused in one sentence."""

from __future__ import annotations

import io

import cv2
import mmcv
import numpy as np
import pytest
import rasterio
import tifffile
from channel_files import pixels, write
from PIL import Image, ImageOps

from mmseg_semi.datasets import DataError
from mmseg_semi.datasets.file_records import read_image
from mmseg_semi.datasets.image_arrays import load_image, turn
from mmseg_semi.errors import UnreadableImage

RNG = np.random.default_rng(0)
TIFF = dict(photometric='minisblack', planarconfig='contig')


def expected(image: np.ndarray) -> np.ndarray:
    """What is loaded of (H, W, C)."""
    image = image[..., ::-1] if image.shape[2] == 3 else image
    return image if image.dtype == np.uint8 else image.astype(np.float32)


def check(path, image, channels=None):
    loaded = load_image(str(path), channels or image.shape[2])
    wanted = expected(image)
    assert loaded.dtype == wanted.dtype and loaded.flags.c_contiguous
    assert loaded.shape == wanted.shape and (loaded == wanted).all()


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 7])
@pytest.mark.parametrize('suffix', ['.tif', '.npy', '.png'])
def test_what_was_written_is_loaded(tmp_path, suffix, channels, dtype):
    if suffix == '.png' and (dtype == 'float32' or channels in (2, 7)):
        return
    image = pixels(RNG, channels, dtype)
    path = write(tmp_path / f'a{suffix}', image)
    check(path, image)
    record = read_image(str(path))
    assert (record.reason, record.width, record.height) == (None, 30, 24)


@pytest.mark.parametrize('dtype', ['int16', 'int32', 'float64', 'float16'])
def test_other_numbers_become_float32(tmp_path, dtype):
    image = (1000 * RNG.random((6, 8, 2)) - 500).astype(dtype)
    check(write(tmp_path / 'a.npy', image), image)


def test_big_and_deflated_tiff(tmp_path):
    image = pixels(RNG, 5, 'uint16')
    tifffile.imwrite(tmp_path / 'a.tif', image, bigtiff=True, **TIFF)
    tifffile.imwrite(tmp_path / 'b.tif', image, compression='zlib', predictor=True, **TIFF)
    for name in ('a.tif', 'b.tif'):
        check(tmp_path / name, image)


def test_photographs_are_loaded_as_before(tmp_path):
    color, rgba = pixels(RNG, 3, 'uint8'), pixels(RNG, 4, 'uint8')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(color).save(tmp_path / 'turned.jpg', exif=exif)
    Image.fromarray(color).save(tmp_path / 'a.jpg', quality=80)
    Image.fromarray(color[..., 0]).save(tmp_path / 'gray.jpg')
    Image.fromarray(color[..., 0]).save(tmp_path / 'gray.png')
    Image.fromarray(color).convert('P').save(tmp_path / 'palette.png')
    Image.fromarray(rgba).save(tmp_path / 'rgba.png')
    Image.fromarray(rgba).save(tmp_path / 'rgba.tif')
    Image.fromarray(color).save(tmp_path / 'a.webp')
    Image.fromarray(color).save(tmp_path / 'a.bmp')
    Image.fromarray(color).save(tmp_path / 'lzw.tif', compression='tiff_lzw')
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 10
    for name in names:
        wanted = mmcv.imfrombytes((tmp_path / name).read_bytes())
        assert np.array_equal(load_image(str(tmp_path / name), 3), wanted), name


def test_alpha_is_a_channel_only_where_it_is_asked_for(tmp_path):
    image = pixels(RNG, 4, 'uint16')
    tifffile.imwrite(tmp_path / 'a.tif', image, photometric='rgb', extrasamples=['unassalpha'])
    for name in ('a.tif', 'a.png'):
        path = tmp_path / name if name == 'a.tif' else write(tmp_path / name, image)
        check(path, image)
        check(path, image[..., :3])
    gray = pixels(RNG, 2, 'uint8')
    Image.fromarray(gray, 'LA').save(tmp_path / 'gray.png')
    check(tmp_path / 'gray.png', gray)
    # A fourth band that is no alpha is not left out.
    path = write(tmp_path / 'bands.tif', pixels(RNG, 4, 'uint8'))
    with pytest.raises(DataError, match='bands.tif has 4 channels.* but in_channels is 3'):
        load_image(str(path), 3)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp'])
def test_an_orientation_turns_each_kind_alike(tmp_path, suffix, orientation):
    image = pixels(RNG, 4 if suffix == '.webp' else 1, 'uint8', (24, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'a{suffix}'
    single = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(single).save(path, exif=exif, quality=100, lossless=True, exact=True)
    loaded = load_image(str(path), image.shape[2])
    upright = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert loaded.shape[:2] == upright.shape[:2]
    if suffix == '.jpg':
        assert np.array_equal(loaded[..., 0], upright[..., 0])
    else:
        assert np.array_equal(loaded, turn(image, orientation))
        assert np.array_equal(loaded[..., :3], upright[..., 2::-1][..., : image.shape[2]])


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_an_orientation_of_tiff(tmp_path, orientation):
    image = pixels(RNG, 5, 'uint16')
    tag = (274, 'H', 1, orientation, True)
    tifffile.imwrite(tmp_path / 'a.tif', image, extratags=[tag], **TIFF)
    check(tmp_path / 'a.tif', turn(image, orientation))


def test_turning_is_that_of_pillow():
    image = Image.fromarray(pixels(RNG, 3, 'uint8', (4, 6)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        image.save(file, 'png', exif=exif)
        upright = ImageOps.exif_transpose(Image.open(file))
        assert np.array_equal(turn(np.asarray(image), orientation), np.asarray(upright))


def test_the_order_of_the_channels_in_tiff(tmp_path):
    image = pixels(RNG, 7, 'uint16')
    planes = image.transpose(2, 0, 1).copy()
    tifffile.imwrite(tmp_path / 'last.tif', image)  # 24 pages of 30 x 7, by their shape
    tifffile.imwrite(tmp_path / 'first.tif', planes)
    tifffile.imwrite(tmp_path / 'planes.tif', planes, photometric='minisblack', planarconfig=2)
    tifffile.imwrite(tmp_path / 'imagej.tif', planes, imagej=True, metadata=dict(axes='CYX'))
    tifffile.imwrite(tmp_path / 'ome.tif', planes, ome=True, metadata=dict(axes='CYX'))
    with tifffile.TiffWriter(tmp_path / 'pages.tif') as file:
        for plane in planes:
            file.write(plane, contiguous=False)
    stack = [Image.fromarray(plane) for plane in planes]
    stack[0].save(tmp_path / 'pillow.tif', save_all=True, append_images=stack[1:])
    for path in sorted(tmp_path.iterdir()):
        check(path, image)


def test_what_nobody_can_tell_is_refused(tmp_path):
    cube = RNG.integers(0, 999, (7, 9, 7), dtype=np.uint16)
    tifffile.imwrite(tmp_path / 'cube.tif', cube)
    with pytest.raises(DataError, match='cube.tif does not say whether its channels stand first'):
        load_image(str(tmp_path / 'cube.tif'), 7)
    tifffile.imwrite(tmp_path / 'z.tif', cube, imagej=True, metadata=dict(axes='ZYX'))
    with pytest.raises(DataError, match=r'z.tif is a volume .*axes ZYX.* import-labels'):
        load_image(str(tmp_path / 'z.tif'), 7)
    tifffile.imwrite(tmp_path / 'color.tif', np.zeros((5, 8, 9, 3), np.uint8))
    with pytest.raises(DataError, match='color.tif is a volume'):
        load_image(str(tmp_path / 'color.tif'), 3)
    with pytest.raises(DataError, match='cube.tif has 7 pages .*but in_channels is 1: pages are'):
        load_image(str(tmp_path / 'cube.tif'), 1)


def test_a_smaller_copy_in_the_file_is_left_out(tmp_path):
    image = pixels(RNG, 5, 'uint16', (64, 96))
    with tifffile.TiffWriter(tmp_path / 'a.tif') as file:
        file.write(image, **TIFF)
        file.write(image[::2, ::2], subfiletype=1, **TIFF)
    check(tmp_path / 'a.tif', image)


@pytest.mark.parametrize('layout', [dict(), dict(interleave='band'), dict(tiled=True)])
def test_a_geotiff_that_tifffile_cannot_read_alone(tmp_path, layout):
    image = pixels(RNG, 6, 'float32', (32, 48))
    tiles = dict(blockxsize=16, blockysize=16) if layout.get('tiled') else {}
    with rasterio.open(
        tmp_path / 'a.tif', 'w', driver='GTiff', count=6, height=32, width=48, dtype='float32',
        compress='lzw', predictor=3, **layout, **tiles,
    ) as file:  # fmt: skip
        file.write(image.transpose(2, 0, 1))
    check(tmp_path / 'a.tif', image)


def test_a_mask_and_overviews_in_a_geotiff_are_no_channels(tmp_path):
    image = pixels(RNG, 1, 'uint8', (64, 96))
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            tmp_path / 'a.tif', 'w', driver='GTiff', count=1, height=64, width=96, dtype='uint8'
        ) as file,
    ):
        file.write(image.transpose(2, 0, 1))
        file.write_mask(image[..., 0] > 20)
        file.build_overviews([2, 4])
    with tifffile.TiffFile(tmp_path / 'a.tif') as file:
        assert len(file.pages) >= 4
    check(tmp_path / 'a.tif', image)


def test_the_extra_is_named_where_it_is_not_installed(tmp_path, monkeypatch):
    Image.fromarray(pixels(RNG, 1, 'uint8')[..., 0]).save(
        tmp_path / 'a.tif', compression='tiff_lzw'
    )
    monkeypatch.setitem(__import__('sys').modules, 'rasterio.io', None)
    with pytest.raises(UnreadableImage, match=r'a.tif: .*LZW.*mmseg_semi\[geotiff\]'):
        load_image(str(tmp_path / 'a.tif'), 1)


def test_wrong_images_are_refused_by_name(tmp_path):
    for dtype, suffix in (('uint8', '.png'), ('uint16', '.tif'), ('float32', '.npy')):
        path = write(tmp_path / f'c{suffix}', pixels(RNG, 4, dtype))
        with pytest.raises(DataError, match=rf'c{suffix} has 4 channels \({dtype}.*is 7: set in'):
            load_image(str(path), 7)
    np.save(tmp_path / 'first.npy', np.zeros((4, 20, 20), np.float32))
    with pytest.raises(DataError, match=r'first.npy has 20 channels.*stand first'):
        load_image(str(tmp_path / 'first.npy'), 4)
    for value in (np.nan, np.inf, 1e39):
        image = pixels(RNG, 2, 'float32').astype(np.float64)
        image[3, 4, 1] = value
        path = write(tmp_path / 'nan.npy', image)
        with pytest.raises(DataError, match='nan.npy has 1 values of 1440 that are NaN, infinite'):
            load_image(str(path), 2)
    np.save(tmp_path / 'big.npy', np.full((4, 4), 2**24 + 1))
    with pytest.raises(DataError, match='big.npy has int64 values beyond 16777216'):
        load_image(str(tmp_path / 'big.npy'), 1)
    np.save(tmp_path / 'text.npy', np.full((4, 4), 'a'))
    with pytest.raises(DataError, match=r'text.npy is <U1 of shape \(4, 4, 1\)'):
        load_image(str(tmp_path / 'text.npy'), 1)
    np.save(tmp_path / 'object.npy', np.array([[None]]), allow_pickle=True)
    (tmp_path / 'no.png').write_bytes(b'no image')
    (tmp_path / 'cut.tif').write_bytes(write(tmp_path / 'd.tif', image).read_bytes()[:300])
    whole = write(tmp_path / 'e.npy', image).read_bytes()
    (tmp_path / 'cut.npy').write_bytes(whole[:-9])
    for name in ('object.npy', 'no.png', 'cut.tif', 'cut.npy', 'missing.png'):
        with pytest.raises(UnreadableImage, match=f'{name} can not be read as an image: .*Replace'):
            load_image(str(tmp_path / name), 2)
    assert 'too early' in read_image(str(tmp_path / 'cut.npy')).reason


def test_gray_tiff_is_repeated_where_three_channels_are_asked_for(tmp_path):
    values = np.arange(20, dtype=np.uint16).reshape(4, 5)
    tifffile.imwrite(tmp_path / 'gray.tif', values, photometric='minisblack')
    loaded = load_image(str(tmp_path / 'gray.tif'), 3)
    assert loaded.shape == (4, 5, 3) and (loaded == values[..., None]).all()
