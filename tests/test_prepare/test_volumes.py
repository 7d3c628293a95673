"""Images of many channels and volumes are brought as they are, and divided by volume."""

from __future__ import annotations

import hashlib
import json
import sys

import nibabel
import numpy as np
import pytest
import tifffile
from channel_files import pixels, write
from label_exports import bring, classes, mask
from PIL import Image

from mmseg_semi.datasets.image_arrays import stored_image
from mmseg_semi.errors import DataError
from mmseg_semi.prepare.dividing import Request
from mmseg_semi.prepare.split_folder import split_folder

RNG = np.random.default_rng(0)
SHAPE = (24, 30)


def labels(shape=SHAPE, kinds=3):
    """Blocks of class numbers, all of them there."""
    found = RNG.integers(0, kinds, shape, dtype=np.uint8)
    found.ravel()[:kinds] = np.arange(kinds)
    return found


def save_mask(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


# ------------------------------------------------------------------------------------- images
@pytest.mark.parametrize(
    ('channels', 'dtype', 'suffix'),
    [(1, 'uint16', '.png'), (4, 'uint8', '.png'), (7, 'uint16', '.tif'), (5, 'float32', '.npy')],
)
def test_images_are_copied_as_they_are(tmp_path, channels, dtype, suffix):
    source, wanted = tmp_path / 'source', {}
    for i in range(3):
        write(source / f'images/i{i}{suffix}', pixels(RNG, channels, dtype, SHAPE))
    for i in range(2):
        wanted[f'i{i}.png'] = labels()
        save_mask(source / f'masks/i{i}.png', wanted[f'i{i}.png'])
    out = bring(source, tmp_path / 'out')
    assert digests(out / 'images') == digests(source / 'images')
    for name, array in wanted.items():
        assert np.array_equal(mask(out, name), array)


def test_a_tiff_that_does_not_say_the_order_of_its_channels(tmp_path):
    source = tmp_path / 'source'
    image = pixels(RNG, 7, 'uint16', SHAPE)
    (source / 'images').mkdir(parents=True)
    tifffile.imwrite(source / 'images/last.tif', image)
    tifffile.imwrite(source / 'images/first.tif', image.transpose(2, 0, 1).copy())
    for name in ('last', 'first'):
        save_mask(source / f'masks/{name}.png', labels())
    out = bring(source, tmp_path / 'out')
    for name in ('last', 'first'):
        assert np.array_equal(stored_image(str(out / f'images/{name}.tif'), 7), image)
    save_mask(source / 'masks/last.png', labels((30, 24)))
    with pytest.raises(DataError, match=r'last.tif has 30 x 24: give the image that was'):
        bring(source, tmp_path / 'other')


def test_masks_may_be_arrays(tmp_path):
    source, wanted = tmp_path / 'source', labels()
    write(source / 'images/a.npy', pixels(RNG, 5, 'float32', SHAPE))
    (source / 'masks').mkdir()
    np.save(source / 'masks/a.npy', wanted.astype(np.int64))
    assert np.array_equal(mask(bring(source, tmp_path / 'out'), 'a.png'), wanted)
    np.save(source / 'masks/a.npy', wanted.astype(np.float32))
    with pytest.raises(DataError, match=r'a.npy is float32 of shape .* must be \(H, W\) of whole'):
        bring(source, tmp_path / 'other')


# ------------------------------------------------------------------------------------ volumes
def volume(channels=1, dtype='uint16', slices=6):
    """Slices (Z, H, W[, C]) and their masks (Z, H, W)."""
    images = np.stack([pixels(RNG, channels, dtype, SHAPE) for _ in range(slices)])
    images = images[..., 0] if channels == 1 else images
    return images, np.stack([labels() for _ in range(slices)])


def write_nifti(path, stack, affine=None):
    """(Z, H, W[, C]) as (X, Y, Z[, C])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = (2, 1, 0, 3)[: stack.ndim]
    image = nibabel.Nifti1Image(stack.transpose(order), np.eye(4) if affine is None else affine)
    nibabel.save(image, path)


def write_tiff(path, stack, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, stack, **options)


def write_pages(path, stack):
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [Image.fromarray(one) for one in stack]
    pages[0].save(path, save_all=True, append_images=pages[1:])


KINDS = {
    'nifti': ('.nii.gz', write_nifti, write_nifti),
    'plain nifti': ('.nii', write_nifti, write_nifti),
    'pages': ('.tif', write_pages, write_pages),
    'imagej': (
        '.tif',
        lambda path, stack: write_tiff(path, stack, imagej=True, metadata=dict(axes='ZYX')),
        write_tiff,
    ),
    'no word': ('.tif', write_tiff, write_tiff),
}


@pytest.mark.parametrize('kind', KINDS)
def test_volumes_are_brought_as_slices(tmp_path, kind):
    suffix, write_image, write_labels = KINDS[kind]
    source, wanted = tmp_path / 'source', {}
    for name in ('a', 'sub/b', 'later'):
        images, truth = volume()
        write_image(source / f'images/{name}{suffix}', images)
        if name != 'later':
            write_labels(source / f'labels/{name}{suffix}', truth)
        wanted[name] = (images, truth)
    save_mask(source / 'labels/photo.png', labels())  # a single image besides
    Image.fromarray(pixels(RNG, 1, 'uint16', SHAPE)[..., 0]).save(source / 'images/photo.png')
    out = bring(source, tmp_path / 'out')
    for name, (images, truth) in wanted.items():
        for z, (image, one) in enumerate(zip(images, truth)):
            found = stored_image(str(out / f'images/{name}_z{z:04}.tif'), 1)
            assert found.dtype == np.uint16 and np.array_equal(found[..., 0], image)
            if name == 'later':
                assert not (out / f'annotations/{name}_z{z:04}.png').exists()
            else:
                assert np.array_equal(mask(out, f'{name}_z{z:04}.png'), one)
    content = json.loads((out / 'classes.json').read_text())
    assert content['volumes'] == ['a', 'later', 'sub/b'] and len(content['classes']) == 3
    before = digests(out)
    assert digests(bring(source, out)) == before
    assert len(before) == 3 * 6 + 2 * 6 + 2 + 4


def test_slices_keep_their_kind(tmp_path):
    source = tmp_path / 'source'
    kinds = dict(a=(1, 'uint8'), b=(3, 'uint8'), c=(4, 'float32'), d=(2, 'uint16'))
    stacks = {}
    for name, (channels, dtype) in kinds.items():
        stacks[name], truth = volume(channels, dtype)
        write_nifti(source / f'images/{name}.nii.gz', stacks[name])
        write_nifti(source / f'masks/{name}_seg.nii.gz', truth)
    out = bring(source, tmp_path / 'out')
    for name, (channels, dtype) in kinds.items():
        suffix = '.png' if dtype == 'uint8' else '.tif'
        found = stored_image(str(out / f'images/{name}_z0003{suffix}'), channels)
        found = found[..., ::-1] if channels == 3 else found
        assert found.dtype == dtype
        assert np.array_equal(np.squeeze(found), stacks[name][3])
    assert len(list((out / 'annotations').iterdir())) == 24


def test_color_pages_are_slices(tmp_path):
    source = tmp_path / 'source'
    images, truth = volume(3, 'uint8')
    write_pages(source / 'images/a.tif', images)
    write_pages(source / 'masks/a.tif', truth)
    out = bring(source, tmp_path / 'out')
    assert np.array_equal(np.asarray(Image.open(out / 'images/a_z0002.png')), images[2])
    assert np.array_equal(mask(out, 'a_z0002.png'), truth[2])


def test_masks_beside_the_volumes_and_one_for_each_class(tmp_path):
    images, truth = volume()
    write_nifti(tmp_path / 'one/a.nii.gz', images)
    write_nifti(tmp_path / 'one/a_mask.nii.gz', truth)
    out = bring(tmp_path / 'one', tmp_path / 'out')
    assert np.array_equal(mask(out, 'a_z0005.png'), truth[5])
    assert len(list((out / 'images').iterdir())) == 6
    write_nifti(tmp_path / 'images/a.nii.gz', images)
    for number, name in ((1, 'liver'), (2, 'tumor')):
        write_nifti(tmp_path / f'masks/a_{name}.nii.gz', (truth == number).astype(np.uint8))
    other = bring(tmp_path / 'masks', tmp_path / 'classes', images=tmp_path / 'images')
    assert classes(other) == ['background', 'liver', 'tumor']
    assert np.array_equal(mask(other, 'a_z0005.png'), truth[5])


def test_pages_that_may_be_slices_or_channels(tmp_path):
    source = tmp_path / 'source'
    images, truth = volume(slices=5)
    write_tiff(source / 'images/a.tif', images)
    write_tiff(source / 'images/b.tif', images)
    write_pages(source / 'masks/a.tif', truth)  # as many pages: slices, of b as well
    out = bring(source, tmp_path / 'slices')
    assert len(list((out / 'images').iterdir())) == 10
    (source / 'masks/a.tif').unlink()
    save_mask(source / 'masks/a.png', labels())  # one: channels
    out = bring(source, tmp_path / 'channels')
    assert sorted(one.name for one in (out / 'images').iterdir()) == ['a.tif', 'b.tif']
    write_tiff(source / 'images/c.tif', images)
    write_pages(source / 'masks/c.tif', truth)  # both are there, and b has no mask
    message = r'1 TIFF files have several pages, .*b.tif. Say which with --pages slices or'
    with pytest.raises(DataError, match=message):
        bring(source, tmp_path / 'none')
    for path in (source / 'images/c.tif', source / 'masks/c.tif', source / 'images/b.tif'):
        path.unlink()
    save_mask(source / 'masks/single.png', labels())
    write(source / 'images/single.tif', pixels(RNG, 1, 'uint16', SHAPE))
    (source / 'masks/a.png').unlink()
    with pytest.raises(DataError, match='a.tif. Say which with --pages'):
        bring(source, tmp_path / 'none')
    assert not (tmp_path / 'none').exists()
    out = bring(source, tmp_path / 'said', pages='channels')
    assert sorted(one.name for one in (out / 'images').iterdir()) == ['a.tif', 'single.tif']
    out = bring(source, tmp_path / 'said too', pages='slices')
    assert len(list((out / 'images').iterdir())) == 6


def test_volumes_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    source = tmp_path / 'source'
    images, truth = volume()
    write_nifti(source / 'images/a.nii.gz', images)
    write_nifti(source / 'masks/a.nii.gz', truth[:-1])
    with pytest.raises(DataError, match=r'masks/a.nii.gz has 5 slices, .*images/a.nii.gz 6: give'):
        bring(source, tmp_path / 'out')
    write_nifti(source / 'masks/a.nii.gz', truth, np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(DataError, match='a.nii.gz lie differently in space'):
        bring(source, tmp_path / 'out')
    write_nifti(source / 'masks/a.nii.gz', truth * 0.5)
    with pytest.raises(DataError, match='masks/a.nii.gz has values that are no class'):
        bring(source, tmp_path / 'out')
    write_nifti(source / 'masks/a.nii.gz', truth)
    (source / 'images/a.nii.gz').write_bytes(b'no volume')
    with pytest.raises(DataError, match='images/a.nii.gz cannot be read'):
        bring(source, tmp_path / 'out')
    monkeypatch.setitem(sys.modules, 'nibabel', None)
    with pytest.raises(DataError, match=r"need nibabel.*pip install 'mmseg_semi\[volumes\]'"):
        bring(source, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_messages_and_notes_name_the_users_folders(tmp_path):
    source = tmp_path / 'source'
    images, truth = volume()
    write_nifti(source / 'images/a.nii.gz', images)
    write_nifti(source / 'masks/a.nii.gz', truth)
    save_mask(source / 'masks/nobody.png', labels())
    out = bring(source, tmp_path / 'out')
    notes = (out / 'not_used.txt').read_text()
    assert notes == f'{source}/masks/nobody.png: there is no image of this name\n'


def test_a_volume_is_never_in_two_parts(tmp_path):
    source = tmp_path / 'source'
    for i in range(8):
        images, truth = volume(dtype='uint8')
        write_nifti(source / f'images/p{i}.nii.gz', images)
        if i < 6:
            write_nifti(source / f'masks/p{i}.nii.gz', truth)
    out = bring(source, tmp_path / 'out')
    for seed in range(3):
        split_folder(out, Request(12, 0.17, 0.17, seed))
        parts = {
            part: (out / f'splits/12-seed{seed}/{part}.txt').read_text().split()
            for part in ('labeled', 'unlabeled', 'val', 'test')
        }
        assert sum(map(len, parts.values())) == 48
        owners = {part: {name.split('_z')[0] for name in names} for part, names in parts.items()}
        assert sum(map(len, owners.values())) == 8
        assert {'p6', 'p7'} <= owners['unlabeled']
        assert all(len(parts[part]) == 6 * len(owners[part]) for part in parts)
    # A pattern says otherwise.
    split_folder(out, Request(10, 0.2, 0.2, 0, r'.+'))
    names = (out / 'splits/10-seed0/labeled.txt').read_text().split()
    assert len(names) == 10 and len({name.split('_z')[0] for name in names}) > 2
