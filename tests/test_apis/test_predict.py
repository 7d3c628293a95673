"""``mmseg-semi predict``."""

from __future__ import annotations

import errno
import io
import json
import sys
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
import rasterio
import tifffile
import torch
from label_exports import files
from mmseg.apis import MMSegInferencer
from PIL import Image
from saved_models import NEAR, PALETTE, saved_model

from mmseg_semi.apis import predict, prediction_job
from mmseg_semi.apis.predicting import Predictor
from mmseg_semi.apis.saved_model import find_config, load_saved
from mmseg_semi.errors import DataError
from mmseg_semi.structures import ChannelStatistics, write_statistics
from mmseg_semi.utils.safe_checkpoints import CheckpointError


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A checkpoint with a student and a teacher, and a folder of images beside it."""
    return saved_model(tmp_path_factory.mktemp('saved'))


@pytest.fixture(scope='module')
def images(run):
    return run.parents[1] / 'leaves/images'


def labels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == 'P'
        return np.array(image)


def test_labels_are_those_of_mmseg_with_names_palette_and_subfolders(run, images, tmp_path):
    words = [run, images, '--out', tmp_path / 'out', '--overlay', '--probabilities', '--batch', 3]
    predict.main([str(word) for word in words])
    mmseg = MMSegInferencer(str(run.parent / 'config.py'), str(run), device='cpu')
    paths = sorted(images.rglob('*.jpg'))
    assert len(paths) == 13
    for path in paths:
        name = path.relative_to(images).with_suffix('')
        result = mmseg(str(path), return_datasamples=True)
        labels = labels_of(tmp_path / f'out/labels/{name}.png')
        np.testing.assert_array_equal(labels, result.pred_sem_seg.data[0])
        found = np.load(tmp_path / f'out/probabilities/{name}.npy')
        assert found.shape == (3, 48, 64) and found.dtype == np.float16
        wanted = result.seg_logits.data.softmax(0).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        table = np.array([[96, 96, 96], *PALETTE[1:]], np.uint8)  # black in dark gray
        photo = cv2.imread(str(path))[..., ::-1]
        shown = np.array(Image.open(tmp_path / f'out/overlays/{name}.png'))
        np.testing.assert_allclose(shown, photo / 2 + table[labels] / 2, atol=0.51)
    assert len(np.unique(labels)) == 3
    with Image.open(tmp_path / 'out/labels/val/v0.png') as image:
        assert image.getpalette()[:9] == sum(PALETTE, [])
    shown = np.array(Image.open(tmp_path / 'out/legend.png')).reshape(-1, 3)
    assert {tuple(color) for color in table.tolist()} <= {tuple(one) for one in shown.tolist()}
    content = json.loads((tmp_path / 'out/classes.json').read_text())
    assert content == dict(classes=['background', 'leaf', 'disease'], palette=PALETTE)


def test_the_teacher_predicts_otherwise(run, images, tmp_path):
    image = str(images / 'val/v0.jpg')
    predict.main([str(run), image, '--out', str(tmp_path / 'a')])
    predict.main([str(run), image, '--out', str(tmp_path / 'b'), '--predict-with', 'teacher'])
    config = tmp_path / 'teacher.py'
    config.write_text(
        f'_base_ = {str(run.parent / "config.py")!r}\n'
        "model = dict(test_cfg=dict(predict_with='teacher'))\n"
    )
    wanted = MMSegInferencer(str(config), str(run), device='cpu')(image)['predictions']
    student, teacher = (labels_of(tmp_path / f'{one}/labels/v0.png') for one in 'ab')
    np.testing.assert_array_equal(teacher, wanted)
    assert (student != teacher).any()
    with pytest.raises(DataError, match=r'made otherwise \(config was \w+, is \w+\)'):
        predict.main([str(run), image, '--out', str(tmp_path / 'a'), '--predict-with', 'teacher'])


def test_tiles_give_the_prediction_of_the_whole_image(run):
    """The network sees 14 pixels at most; the image is made larger by its pipeline's inverse."""
    saved = load_saved(str(run), device='cpu')
    torch.manual_seed(1)
    sample = saved.pipeline(dict(img_path=str(next((run.parents[1] / 'leaves').rglob('v0.jpg')))))
    sample['inputs'] = torch.randint(0, 256, (3, 330, 200), dtype=torch.uint8)
    sample['data_samples'].set_metainfo(dict(img_shape=(330, 200), ori_shape=(401, 243)))
    predictor = Predictor(saved, tile=128, overlap=64, compare=True)
    assert predictor.tile_of(sample) == 128
    (whole,) = predictor.whole([sample])
    bands = list(predictor.tiled(sample, 128))
    assert len(bands) > 2
    logits = torch.cat([band.scores for band in bands], 1)
    torch.testing.assert_close(logits, whole.scores, rtol=0, atol=1e-3)
    for name in ('labels', 'other_labels'):
        found = torch.cat([getattr(band, name) for band in bands])
        assert (found != getattr(whole, name)).float().mean() < 1e-4
    assert (whole.labels != whole.other_labels).any()


def test_a_small_tile_of_the_command_line_changes_the_road_not_the_result(run, images, tmp_path):
    size = ['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(200,150)']
    image = str(images / 'val/v1.jpg')
    predict.main([str(run), image, '--out', str(tmp_path / 'whole'), *size])
    words = [str(run), image, '--out', str(tmp_path / 'tiles'), '--tile', '64', '--overlap', '32']
    predict.main([*words, '--overlay', '--probabilities', *size])
    whole, tiles = (labels_of(tmp_path / f'{one}/labels/v1.png') for one in ('whole', 'tiles'))
    assert tiles.shape == (48, 64) and (whole == tiles).mean() > 0.99
    found = np.load(tmp_path / 'tiles/probabilities/v1.npy')
    np.testing.assert_allclose(found.astype(np.float32).sum(0), np.ones((48, 64)), atol=2e-3)
    assert (found.argmax(0) == tiles).mean() > 0.99


def test_a_run_goes_on_where_it_was_killed(run, images, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    words = [str(run), str(images / 'unlabeled'), '--out', str(out)]
    written = []
    real = prediction_job.write_labels

    def killed(path, *rest):
        real(path, *rest)
        written.append(path)
        if len(written) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(prediction_job, 'write_labels', killed)
    with pytest.raises(KeyboardInterrupt):
        predict.main(words)
    before = files(out / 'labels')
    assert len(before) == 3 and all(name.endswith('.png') for name in before)
    # A line without its file, and half a line.
    lines = (out / 'predictions.jsonl').read_text()
    (out / 'labels/u1.png').unlink()
    (out / 'predictions.jsonl').write_text(lines + '{"image": "half')
    monkeypatch.setattr(prediction_job, 'write_labels', real)
    predict.main(words)
    assert ': 4 images predicted' in (said := capsys.readouterr().out), said
    assert '2 were finished before' in said
    after = files(out / 'labels')
    assert after.keys() == {f'u{i}.png' for i in range(6)}
    assert all(after[name] == before[name] for name in ('u0.png', 'u2.png'))
    again = files(out)
    predict.main(words)
    assert files(out) == again


def test_an_image_that_was_drawn_into_is_predicted_anew(run, images, tmp_path, capsys):
    """Uncompressed, it has the size of before, and most of its bytes."""
    folder, words = tmp_path / 'drawn', [str(run), str(tmp_path / 'drawn'), '--out']
    folder.mkdir()
    pixels = cv2.resize(cv2.imread(str(images / 'val/v0.jpg')), (300, 200))
    cv2.imwrite(str(folder / 'a.bmp'), pixels)
    predict.main([*words, str(tmp_path / 'out')])
    pixels[:20] = 255 - pixels[:20]
    cv2.imwrite(str(folder / 'a.bmp'), pixels)
    predict.main([*words, str(tmp_path / 'out')])
    assert ': 1 images predicted' in capsys.readouterr().out.splitlines()[-1]
    predict.main([*words, str(tmp_path / 'new')])
    kept, wanted = (labels_of(tmp_path / one / 'labels/a.png') for one in ('out', 'new'))
    np.testing.assert_array_equal(kept, wanted)


def test_a_full_disk_is_said_before_a_map_is_written(tmp_path, monkeypatch):
    path = tmp_path / 'a.npy'
    path.write_bytes(bytes(10))

    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, f'No space left for {size}')

    monkeypatch.setattr(prediction_job.os, 'posix_fallocate', full)
    with pytest.raises(OSError, match='No space left for 10'):
        prediction_job._claim_space(path)


def test_nothing_of_others_is_replaced(run, images, tmp_path):
    out, image = tmp_path / 'out', str(images / 'val/v0.jpg')
    mine = out / 'labels/v0.png'
    mine.parent.mkdir(parents=True)
    mine.write_text('mine')
    with pytest.raises(DataError, match='not written by this command.*labels/v0.png'):
        predict.main([str(run), image, '--out', str(out)])
    assert mine.read_text() == 'mine'
    assert [path.name for path in out.iterdir()] == ['labels']
    mine.unlink()
    predict.main([str(run), image, '--out', str(out)])
    mine.write_bytes(mine.read_bytes() + b'corrected')
    with pytest.raises(DataError, match='changed since: labels/v0.png'):
        predict.main([str(run), image, '--out', str(out)])
    mine.unlink()
    predict.main([str(run), image, '--out', str(out)])
    other = tmp_path / 'other/v0.jpg'
    other.parent.mkdir()
    other.write_bytes((images / 'val/v1.jpg').read_bytes())
    with pytest.raises(DataError, match=r'predictions of other images.*labels/v0.png of .*val/v0'):
        predict.main([str(run), str(other), '--out', str(out)])
    (tmp_path / 'third').mkdir()
    (tmp_path / 'third/classes.json').write_text('{}')
    with pytest.raises(DataError, match='classes.json was not written by this command'):
        predict.main([str(run), image, '--out', str(tmp_path / 'third')])


@pytest.mark.parametrize('kind', ['coco', 'cvat'])
def test_a_later_run_of_few_images_keeps_what_was_made_of_all(run, images, tmp_path, kind, capsys):
    out = tmp_path / 'out'
    more = ['--out', str(out), '--polygons', kind, '--rank-by', 'uncertainty']
    predict.main([str(run), str(images / 'val'), *more])
    before = {name: data for name, data in files(out).items() if 'jsonl' not in name}
    capsys.readouterr()
    predict.main([str(run), str(images / 'val/v0.jpg'), *more])
    said = capsys.readouterr().out
    assert ': 0 images predicted; 1 were finished before' in said
    count = len([name for name in before if name.startswith('labels/')])
    assert count > 1 and f'{count - 1} images of earlier runs are among the polygons' in said
    after = files(out)
    if kind == 'coco':  # in whatever order
        found, wanted = (
            {one['file_name'] for one in json.loads(content['coco.json'][0])['images']}
            for content in (after, before)
        )
        assert found == wanted and len(found) == count
    else:
        assert {name for name in after if 'jsonl' not in name} == before.keys()
        pictures = [name for name in before if name.endswith('.png')]
        assert all(after[name][0] == before[name][0] for name in pictures)
    assert after['ranking.csv'][0] == before['ranking.csv'][0]


def test_broken_images_are_named_and_the_others_predicted(run, images, tmp_path, capsys):
    folder = tmp_path / 'photos'
    folder.mkdir()
    data = (images / 'val/v0.jpg').read_bytes()
    (folder / 'good.jpg').write_bytes(data)
    (folder / 'half.jpg').write_bytes(data[: len(data) // 2])
    (folder / 'text.png').write_text('no image')
    (folder / 'empty.tif').write_bytes(b'')
    with pytest.raises(DataError, match='^3 of 4 images could not be predicted.*half.jpg.*text'):
        predict.main([str(run), str(folder), '--out', str(tmp_path / 'out')])
    said = capsys.readouterr().out
    assert 'half.jpg cannot be read: the file ends too early' in said
    assert 'text.png cannot be read: it is no image' in said and 'empty.tif' in said
    assert list(files(tmp_path / 'out/labels')) == ['good.png']


@pytest.mark.parametrize('how', ['file', 'pattern', 'list', 'stdin'])
def test_images_by_file_pattern_list_and_standard_input(
    run, images, tmp_path, monkeypatch, how, capsys
):
    listed = tmp_path / 'list.txt'
    listed.write_text(f'# some\n{images}/val/v0.jpg\n\n{images}/labeled/l1.jpg\n')
    monkeypatch.chdir(images)
    given = dict(
        file=['val/v0.jpg', 'labeled/l1.jpg'],
        pattern=['**/[vl][01].jpg'],
        list=[str(listed)],
        stdin=['-'],
    )[how]
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(listed.read_bytes())))
    predict.main([str(run), *given, '--out', str(tmp_path / 'out')])
    wanted = {'val/v0.png', 'labeled/l1.png'}
    if how == 'pattern':
        wanted |= {'val/v1.png', 'labeled/l0.png'}
    assert files(tmp_path / 'out/labels').keys() == wanted


def test_images_of_two_suffixes_and_predictions_in_the_folder_of_the_images(
    run, images, tmp_path, capsys
):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name in ('a.jpg', 'a.png'):
        Image.open(images / 'val/v0.jpg').save(folder / name)
    for _ in range(2):
        predict.main([str(run), str(folder), '--out', str(folder / 'predicted')])
    assert '0 images predicted; 2 were finished before' in capsys.readouterr().out
    assert files(folder / 'predicted/labels').keys() == {'a.jpg.png', 'a.png.png'}


def test_a_geotiff_image_gives_a_geotiff(run, images, tmp_path):
    pixels = np.array(Image.open(images / 'val/v0.jpg'))
    place = rasterio.transform.from_origin(500000, 4600000, 10, 10)
    profile = dict(driver='GTiff', width=64, height=48, count=3, dtype='uint8')
    with rasterio.open(
        tmp_path / 'scene.tif', 'w', crs='EPSG:32633', transform=place, **profile
    ) as file:
        file.write(pixels.transpose(2, 0, 1))
    Image.fromarray(pixels).save(tmp_path / 'plain.tif')
    out = tmp_path / 'out'
    words = [str(run), str(tmp_path / 'scene.tif'), str(tmp_path / 'plain.tif'), '--out', str(out)]
    predict.main(words)
    assert files(out / 'labels').keys() == {'scene.tif', 'plain.png'}
    with rasterio.open(out / 'labels/scene.tif') as file:
        assert file.crs.to_epsg() == 32633 and file.transform == place and file.count == 1
        np.testing.assert_array_equal(file.read(1), labels_of(out / 'labels/plain.png'))
        assert file.colormap(1)[1][:3] == tuple(PALETTE[1])


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (['nowhere'], 'nowhere: there is no such file or folder'),
        (['photos', '--tile', '100'], '--tile 100 must be a multiple of 32'),
        (['photos', '--overlap', '600'], '--overlap 600 must be from 0 to 512'),
        (['photos', '--batch', '0'], '--batch must be a whole number'),
        (['photos', '--device', 'gpu'], '--device gpu: '),
        (['photos', '--out', 'photos'], 'no image outside of photos'),
    ],
)
def test_refusals(run, images, tmp_path, monkeypatch, words, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'photos').symlink_to(images)
    with pytest.raises(Exception, match=error):
        predict.main([str(run), '--out', 'out', *words])
    assert not (tmp_path / 'out').exists()


def test_the_config_beside_a_checkpoint(run, tmp_path):
    assert find_config(str(run)) == str(run.parent / 'config.py')
    (tmp_path / 'README.md').write_text('# Leaves')
    (tmp_path / 'setup.py').write_text('raise SystemExit("executed")')
    with pytest.raises(CheckpointError, match='README.md: the file is no checkpoint of torch'):
        load_saved(str(tmp_path / 'README.md'))
    (tmp_path / 'setup.py').unlink()
    torch.save({}, tmp_path / 'a.pth')
    with pytest.raises(FileNotFoundError, match='no config .* beside .*a.pth: name it with'):
        find_config(str(tmp_path / 'a.pth'))
    for name in ('b.py', 'c.py'):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match='2 configs beside'):
        find_config(str(tmp_path / 'a.pth'))
    for name in ('c.pth', 'a.py'):  # c.py is that of an extracted model
        (tmp_path / name).touch()
        own = 'b.py' if name == 'c.pth' else 'a.py'
        assert find_config(str(tmp_path / 'a.pth')) == str(tmp_path / own)


def test_the_config_that_plain_mmseg_leaves_has_names_that_nothing_reads(run, images, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text((run.parent / 'config.py').read_text() + "\ndataset_type = 'LeafDataset'\n")
    words = [str(run), str(images / 'val/v0.jpg'), '--out', str(tmp_path / 'out')]
    predict.main([*words, '--config', str(config)])
    assert list(files(tmp_path / 'out/labels')) == ['v0.png']
    with pytest.raises(ValueError, match='--cfg-options modell.type: nothing reads'):
        predict.main([*words, '--config', str(config), '--cfg-options', 'modell.type=a'])


def test_a_volume_is_predicted_slice_by_slice(run, tmp_path, capsys):
    """Slices are images; a broken volume is named."""
    folder, out = tmp_path / 'scans', tmp_path / 'out'
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 48), np.uint8)
    tifffile.imwrite(folder / 'a.tif', pixels, imagej=True, metadata=dict(axes='ZYX'))
    nibabel.save(nibabel.Nifti1Image(pixels.transpose(2, 1, 0), np.eye(4)), folder / 'a.nii.gz')
    (folder / 'c.nii').write_text('broken')
    words = [str(run), str(folder), '--out', str(out)]
    for _ in range(2):
        with pytest.raises(DataError, match=r'^1 of 7 images could not .*scans/c\.nii'):
            predict.main(words)
    assert '0 images predicted; 6 were finished before' in capsys.readouterr().out
    names = {f'{volume}_z000{i}.png' for volume in ('a', 'a.nii') for i in range(3)}
    assert files(out / 'labels').keys() == names == files(out / 'slices').keys()
    assert np.array_equal(np.array(Image.open(out / 'slices/a.nii_z0001.png')), pixels[1])
    later = tmp_path / 'later.tif'
    tifffile.imwrite(later, pixels[:2], imagej=True, metadata=dict(axes='ZYX'))
    predict.main([str(run), str(later), '--out', str(out)])
    tifffile.imwrite(later, pixels[:1], imagej=True, metadata=dict(axes='ZYX'))
    names |= {f'later_z000{i}.png' for i in range(2)}
    assert files(out / 'slices').keys() == names, 'those of earlier volumes are still there'
    predict.main([str(run), str(out / 'slices'), '--out', str(tmp_path / 'again')])
    for name in names:
        one, other = (labels_of(folder / 'labels' / name) for folder in (out, tmp_path / 'again'))
        np.testing.assert_array_equal(one, other)


def test_images_of_many_channels_and_16_bits(tmp_path):
    columns = dict(mean=[900.0] * 4, std=[300.0] * 4, min=[0.0] * 4, max=[2000.0] * 4)
    statistics = ChannelStatistics(4, 'uint16', images=1, files='', **columns)
    extra = f"""{NEAR}
in_channels = 4
"""
    (tmp_path / 'leaves').mkdir()
    write_statistics(str(tmp_path / 'leaves/channels.json'), statistics)
    run = saved_model(tmp_path, extra=extra)
    pixels = np.random.default_rng(0).integers(0, 2000, (40, 48, 4)).astype(np.uint16)
    tifffile.imwrite(tmp_path / 'many.tif', pixels, photometric='minisblack', planarconfig='contig')
    np.save(tmp_path / 'many.npy', pixels)
    np.save(tmp_path / 'three.npy', pixels[..., :3])
    words = [str(tmp_path / one) for one in ('many.tif', 'many.npy', 'three.npy')]
    out = tmp_path / 'out'
    with pytest.raises(DataError, match='^1 of 3 images could not .*three.npy'):
        predict.main([str(run), *words, '--out', str(out), '--overlay'])
    one, other = (labels_of(out / f'labels/many.{end}.png') for end in ('tif', 'npy'))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (40, 48) and len(np.unique(one)) > 1


def test_mixed_precision_gives_nearly_the_same(run, images, tmp_path):
    image = str(images / 'val/v0.jpg')
    predict.main([str(run), image, '--out', str(tmp_path / 'a')])
    predict.main([str(run), image, '--out', str(tmp_path / 'b'), '--amp', '--probabilities'])
    full, half = (labels_of(tmp_path / f'{one}/labels/v0.png') for one in 'ab')
    assert (full == half).mean() > 0.9
    assert np.isfinite(np.load(tmp_path / 'b/probabilities/v0.npy')).all()


def test_a_checkpoint_without_its_teacher_predicts_with_the_student_alone(run, images, tmp_path):
    content = torch.load(run, weights_only=True)
    state = {k: v for k, v in content['state_dict'].items() if not k.startswith('teacher.')}
    alone = tmp_path / 'alone.pth'
    torch.save({**content, 'state_dict': state}, alone)
    words = [str(alone), str(images / 'val/v0.jpg'), '--config', str(run.parent / 'config.py')]
    with pytest.raises(
        ValueError, match='alone.pth has no weights of a teacher .*--predict-with s'
    ):
        predict.main([*words, '--out', str(tmp_path / 'a'), '--predict-with', 'teacher'])
    predict.main([*words, '--out', str(tmp_path / 'b'), '--rank-by', 'uncertainty'])
    (_, row) = (tmp_path / 'b/ranking.csv').read_text().splitlines()
    assert row.split(',')[4] == '0.0'
