"""The digit scenes: what is written, from which samples, and how a rerun behaves."""

import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_semi.prepare import digit_scenes

SCRIPT = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'digit_scenes.py'
SceneParams, DigitScenesError = digit_scenes.SceneParams, digit_scenes.DigitScenesError
SMALL = SceneParams(labeled=12, subsets=(5, 8, 12), unlabeled=9, val=6, test=7)
SMALL_ARGS = [
    *('--labeled', '12', '--subsets', '5', '8', '12'),
    *('--unlabeled', '9', '--val', '6', '--test', '7'),
]


@pytest.fixture(scope='module')
def sources():
    return digit_scenes.load_sources(SMALL)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'scenes'
    assert digit_scenes.make_digit_scenes(folder, SMALL) is True
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the data set that a test may change."""
    folder = tmp_path / 'scenes'
    digit_scenes.shutil.copytree(made, folder)
    return folder


def checksums(folder):
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read_mask(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def run(folder, *args):
    return digit_scenes.main([str(folder), *SMALL_ARGS, *args])


# ------------------------------------------------------------------------------- determinism
def test_same_seed_gives_same_bytes_and_another_seed_others(made, tmp_path):
    first = checksums(made)
    digit_scenes.make_digit_scenes(tmp_path / 'again', SMALL)
    assert checksums(tmp_path / 'again') == first
    digit_scenes.make_digit_scenes(tmp_path / 'other', replace(SMALL, seed=1))
    other = checksums(tmp_path / 'other')
    assert other.keys() == first.keys()
    images = [name for name in first if name.startswith('images/')]
    assert len(images) == 34 and all(first[name] != other[name] for name in images)


def test_a_scene_does_not_depend_on_the_order_or_the_number_of_scenes(made, sources):
    bigger = replace(SMALL, unlabeled=100, test=50)
    for index in (8, 0, 3):
        image, mask = digit_scenes.render_scene(sources, 'unlabeled', index, bigger)
        name = f'unlabeled/{index:06d}.png'
        assert digit_scenes.encode_png(image) == (made / 'images' / name).read_bytes()
        assert digit_scenes.encode_png(mask) == (made / 'audit' / name).read_bytes()


def test_the_seed_reaches_each_scene_and_not_the_pools_only(sources):
    other = replace(SMALL, seed=1)  # with the same sources, so the same pools
    for part in digit_scenes.PARTS:
        scenes = [digit_scenes.render_scene(sources, part, 0, p)[0] for p in (SMALL, other)]
        assert (scenes[0] != scenes[1]).any()


def test_no_two_images_are_the_same(made):
    images = list(made.glob('images/*/*.png'))
    assert len({path.read_bytes() for path in images}) == len(images) == 34


# ------------------------------------------------------------------------------- pools
def test_pools_have_disjoint_digit_samples_of_the_right_class():
    targets = np.repeat(np.arange(10), 20)
    pools = digit_scenes.assign_digits(targets, (3, 7), seed=0)
    assert set(pools) == {'train', 'val', 'test'}
    taken = {name: set(np.concatenate(pool).tolist()) for name, pool in pools.items()}
    assert {name: len(indices) for name, indices in taken.items()} == {
        'train': 24,
        'val': 4,
        'test': 12,
    }
    assert set().union(*taken.values()) == set(np.flatnonzero(np.isin(targets, (3, 7))))
    for pool in pools.values():
        assert [set(targets[indices]) for indices in pool] == [{3}, {7}]
    again = digit_scenes.assign_digits(targets, (3, 7), seed=1)
    assert set(np.concatenate(again['train']).tolist()) != taken['train']


def test_pools_have_disjoint_photo_regions():
    pools = digit_scenes.assign_regions([(427, 640, 3), (100, 90, 3)], seed=0)
    used = [np.zeros((427, 640), int), np.zeros((100, 90), int)]
    for regions in pools.values():
        assert {photo for photo, *_ in regions} == {0, 1}
        for photo, y, x, height, width in regions:
            assert y + height <= used[photo].shape[0] and x + width <= used[photo].shape[1]
            used[photo][y : y + height, x : x + width] += 1
    assert all(count.max() == 1 and count.mean() > 0.9 for count in used)


@pytest.mark.parametrize(
    ('part', 'pool'),
    [('labeled', 'train'), ('unlabeled', 'train'), ('val', 'val'), ('test', 'test')],
)
def test_scenes_are_made_of_their_own_pool_only(sources, part, pool):
    """With the other pools' material poisoned, nothing changes; with its own, everything does."""

    def poisoned(keep):
        digits = np.full_like(sources.digits, np.nan)
        photos = [np.zeros_like(photo) for photo in sources.photos]
        for indices in sources.samples[keep]:
            digits[indices] = sources.digits[indices]
        for photo, y, x, height, width in sources.regions[keep]:
            area = np.s_[y : y + height, x : x + width]
            photos[photo][area] = sources.photos[photo][area]
        return replace(sources, digits=digits, photos=photos)

    other = 'val' if pool == 'test' else 'test'
    for index in range(4):
        expected, mask = digit_scenes.render_scene(sources, part, index, SMALL)
        same, same_mask = digit_scenes.render_scene(poisoned(pool), part, index, SMALL)
        np.testing.assert_array_equal(same, expected)
        np.testing.assert_array_equal(same_mask, mask)
        _, lost = digit_scenes.render_scene(poisoned(other), part, index, SMALL)
        assert (lost != mask).any()


# ------------------------------------------------------------------------------- what is written
def test_layout_and_meta(made):
    names = {str(path.relative_to(made)) for path in made.rglob('*') if path.is_file()}
    sizes = {'labeled': 12, 'unlabeled': 9, 'val': 6, 'test': 7}
    expected = {'meta.json'} | {f'splits/labeled_{size}.txt' for size in (5, 8, 12)}
    for part, size in sizes.items():
        truth = 'audit' if part == 'unlabeled' else 'annotations'
        for folder in ('images', truth):
            expected |= {f'{folder}/{part}/{index:06d}.png' for index in range(size)}
    assert names == expected  # so no mask of an unlabeled image lies outside audit
    meta = json.loads((made / 'meta.json').read_text())
    assert meta['classes'] == ['background', 'zero', 'one', 'two', 'three', 'four']
    assert len({tuple(color) for color in meta['palette']}) == 6
    assert meta['seed'] == 0 and meta['size'] == [64, 64]
    assert meta['counts']['images/unlabeled'] == 9 and meta['counts']['annotations/val'] == 6
    assert meta['splits'] == {'labeled_5': 5, 'labeled_8': 8, 'labeled_12': 12}
    assert SceneParams(**{k: _tuple(v) for k, v in meta['parameters'].items()}) == SMALL


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


def test_masks_are_label_ids_of_the_size_of_their_image(made):
    masks = list(made.glob('annotations/*/*.png')) + list(made.glob('audit/*/*.png'))
    assert len(masks) == 34
    for path in masks:
        mask = read_mask(path)
        image = cv2.imread(str(made / 'images' / path.parent.name / path.name))
        assert mask.dtype == np.uint8 and mask.shape == image.shape[:2] == (64, 64)
        assert mask.max() <= 5 and 0 < (mask > 0).mean() < 0.9
    seen = np.unique(np.concatenate([read_mask(path).ravel() for path in masks]))
    assert seen.tolist() == [0, 1, 2, 3, 4, 5]


def test_subsets_are_nested_and_have_every_class(made):
    subsets = [(made / f'splits/labeled_{n}.txt').read_text().splitlines() for n in (5, 8, 12)]
    assert [len(set(subset)) for subset in subsets] == [5, 8, 12]
    assert set(subsets[0]) < set(subsets[1]) < set(subsets[2])
    for subset in subsets:
        masks = [read_mask(made / f'annotations/labeled/{stem}.png') for stem in subset]
        assert set(np.unique(masks)) == set(range(6))


def test_a_subset_without_a_class_is_refused(monkeypatch, tmp_path):
    def no_fours(*args):
        image, mask = render(*args)
        return image, np.where(mask == 5, 0, mask)

    render = digit_scenes.render_scene
    monkeypatch.setattr(digit_scenes, 'render_scene', no_fours)
    with pytest.raises(DigitScenesError, match='subset of 5 images has no pixel of: four'):
        digit_scenes.make_digit_scenes(tmp_path / 'scenes', SMALL)
    assert list(tmp_path.iterdir()) == []


def test_classes_and_size_can_be_chosen(tmp_path):
    counts = ['--labeled', '2', '--unlabeled', '1', '--val', '1', '--test', '1']
    args = ['--classes', '7', '9', '--size', '48', *counts]
    assert digit_scenes.main([str(tmp_path / 'scenes'), *args]) == 0
    meta = json.loads((tmp_path / 'scenes/meta.json').read_text())
    assert meta['classes'] == ['background', 'seven', 'nine']
    mask = read_mask(tmp_path / 'scenes/annotations/labeled/000001.png')
    assert mask.shape == (48, 48) and 2 in mask and mask.max() == 2


# ------------------------------------------------------------------------------- one scene
def test_the_mask_says_where_the_digit_is(sources):
    """Plain digits on a plain ground: two colors, and the mask separates them."""
    flat = replace(sources, photos=[np.full_like(photo, 90) for photo in sources.photos])
    plain = replace(SMALL, noise=0, texture=0, distractors=0, digits_per_scene=(1, 1), contrast=100)
    for index in range(10):
        image, mask = digit_scenes.render_scene(flat, 'test', index, plain)
        digit = mask > 0
        assert np.unique(mask).tolist() == [0, index % 5 + 1]
        # Away from the smooth edge every pixel has the one color or the other.
        inside = cv2.erode(digit.astype(np.uint8), np.ones((3, 3))) > 0
        outside = cv2.dilate(digit.astype(np.uint8), np.ones((9, 9))) == 0
        ground, color = image[outside][0].astype(float), np.median(image[inside], axis=0)
        assert (image[outside] == ground).all()
        assert np.linalg.norm(color - ground) >= 99
        share = (image.astype(float) - ground) @ (color - ground) / np.sum((color - ground) ** 2)
        np.testing.assert_array_equal(share[digit] > 0.45, True)
        np.testing.assert_array_equal(share[~digit] < 0.55, True)


def test_a_digit_is_drawn_the_way_its_sample_looks(sources):
    """Averaged over random places, each sample is closer to its own drawing than to any other."""
    params = replace(SMALL, rotation=5)
    samples, drawn = sources.digits[:10], []  # one of each digit
    for sample in samples:
        boxes = []
        for seed in range(10):
            alpha = digit_scenes._digit_alpha(sample, params, np.random.default_rng(seed))
            x, y, width, height = cv2.boundingRect((alpha > 0.5).astype(np.uint8))
            boxes.append(cv2.resize(alpha[y : y + height, x : x + width], (16, 16)))
        drawn.append(np.mean(boxes, axis=0).ravel())
    wanted = []
    for sample in samples:
        x, y, width, height = cv2.boundingRect((sample > 0.4).astype(np.uint8))
        wanted.append(cv2.resize(sample[y : y + height, x : x + width], (16, 16)).ravel())
    likeness = np.corrcoef(drawn, wanted)[:10, 10:]
    assert likeness.argmax(axis=1).tolist() == list(range(10))
    assert likeness.diagonal().min() > 0.6


def test_digit_size_and_rotation_are_kept(sources):
    digit = np.zeros((8, 8), np.float32)
    digit[:, 3:5] = 1  # an upright bar of the full height
    for degrees in (0, 30):
        angles, heights = [], []
        for seed in range(40):
            params = replace(SMALL, rotation=degrees, digit_size=(30, 30))
            alpha = digit_scenes._digit_alpha(digit, params, np.random.default_rng(seed))
            if alpha[[0, -1]].any() or alpha[:, [0, -1]].any():
                continue  # cut off by the border
            (_, (width, height), angle) = cv2.minAreaRect(np.argwhere(alpha > 0.5)[:, ::-1])
            tilt = angle if height > width else angle + 90
            angles.append(abs((tilt + 90) % 180 - 90))
            heights.append(max(width, height))
        assert len(angles) > 10
        assert min(heights) >= 26 and max(heights) <= 34
        # The shear of the handwriting adds up to 9 degrees.
        assert max(angles) <= degrees + 9.5 and (degrees == 0 or max(angles) > 20)


@pytest.mark.parametrize('overlap', [0.0, 0.4])
def test_later_digits_hide_no_more_than_the_allowed_share(sources, overlap):
    params = replace(SMALL, overlap=overlap)
    owner = np.zeros((64, 64), np.int32)
    owner[20:40, 25:40] = 1
    owner[36:40, 50:60] = 2
    areas = [20 * 15, 50]  # ten of the second digit's fifty pixels are hidden already
    hidden = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        alpha = digit_scenes._place_digit(sources, 'test', 2, owner, areas, params, rng)
        if alpha is not None:
            left = [((owner == k) & (alpha <= 0.5)).sum() / areas[k - 1] for k in (1, 2)]
            hidden.append(1 - np.array(left))
    if overlap == 0:  # the second digit has lost a fifth: nothing can be placed any more
        assert not hidden
    else:
        assert len(hidden) > 20 and 0.2 < np.max(hidden) <= 0.4 + 1e-9


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *(('noise', 0), ('texture', 0), ('distractors', 5), ('contrast', 200)),
        *(('photo_light', 1), ('digit_light', 0), ('rotation', 0), ('overlap', 0)),
    ],
)
def test_each_difficulty_changes_the_images(sources, name, value):
    images = [
        [digit_scenes.render_scene(sources, 'test', index, params)[0] for index in range(8)]
        for params in (SMALL, replace(SMALL, **{name: value}))
    ]
    assert (np.array(images[0]) != np.array(images[1])).mean() > 0.01


def test_digits_are_light_and_photographs_dim(sources):
    params = replace(SMALL, noise=0, texture=0, digit_light=170, photo_light=0.3)
    for index in range(6):
        image, mask = digit_scenes.render_scene(sources, 'test', index, params)
        inside = cv2.erode((mask > 0).astype(np.uint8), np.ones((3, 3))) > 0
        outside = cv2.dilate((mask > 0).astype(np.uint8), np.ones((7, 7))) == 0
        assert image[outside].max() <= 0.3 * 255 + 1
        assert np.median(image[inside].mean(axis=-1)) >= 168
    colors = digit_scenes._stroke_colors(500, 200.0, np.random.default_rng(0))
    assert colors.mean(axis=1).min() >= 199.9 and colors.max() <= 255
    assert digit_scenes._stroke_colors(500, 0.0, np.random.default_rng(0)).min() < 5


# ------------------------------------------------------------------------------- rerun
def test_a_rerun_finds_the_complete_data_set_in_no_time(copy, monkeypatch, capsys):
    monkeypatch.setattr(digit_scenes, 'load_sources', lambda params: pytest.fail('made again'))
    start = time.perf_counter()
    assert run(copy) == 0
    assert time.perf_counter() - start < 0.5
    assert 'complete already' in capsys.readouterr().out


def test_other_parameters_are_refused_with_what_differs(copy, capsys):
    before = checksums(copy)
    assert run(copy, '--seed', '3', '--noise', '2') == 2
    message = capsys.readouterr().err
    assert '--seed: there 0, asked for 3' in message and '--noise: there 0.3' in message
    assert '--force' in message and '--rotation' not in message
    assert checksums(copy) == before
    assert run(copy, '--seed', '3', '--force') == 0
    assert json.loads((copy / 'meta.json').read_text())['seed'] == 3
    assert checksums(copy) != before
    assert [path.name for path in copy.parent.iterdir()] == ['scenes']


def test_another_generator_version_is_a_difference(copy, monkeypatch, capsys):
    monkeypatch.setattr(digit_scenes, 'VERSION', 99)
    assert run(copy) == 2
    assert 'this program 99' in capsys.readouterr().err


def test_missing_files_are_noticed(copy, capsys):
    (copy / 'images/val/000002.png').unlink()
    assert run(copy) == 2
    assert 'images/val: holds 5 files instead of 6' in capsys.readouterr().err
    assert run(copy, '--force') == 0 and run(copy) == 0


@pytest.mark.parametrize('case', ['foreign', 'no meta', 'other meta', 'a file'])
def test_what_it_did_not_make_is_left_alone(copy, case, capsys):
    target = copy
    if case == 'foreign':
        (copy / 'notes.txt').write_text('mine')
    elif case == 'no meta':
        (copy / 'meta.json').unlink()
    elif case == 'other meta':
        (copy / 'meta.json').write_text('{"generator": "mine"}')
    else:
        target = copy / 'meta.json'
    before = checksums(copy)
    assert run(target, '--force') == 2
    assert {'foreign': 'notes.txt', 'no meta': 'no meta.json'}.get(case, 'meta.json') in (
        capsys.readouterr().err
    )
    assert checksums(copy) == before


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / 'scenes').mkdir()
    assert run(tmp_path / 'scenes') == 0 and (tmp_path / 'scenes/meta.json').exists()


@pytest.mark.parametrize('stage', ['images', 'meta'])
def test_an_interrupted_run_leaves_nothing_and_can_be_repeated(made, tmp_path, monkeypatch, stage):
    folder = tmp_path / 'scenes'
    calls = []

    def interrupt(*args):
        calls.append(args)
        if stage == 'meta' or len(calls) == 20:
            raise KeyboardInterrupt
        return original(*args)

    name = {'images': 'render_scene', 'meta': 'write_meta'}[stage]
    original = getattr(digit_scenes, name)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(digit_scenes, name, interrupt)
        run(folder)
    assert list(tmp_path.iterdir()) == []
    assert run(folder) == 0
    assert checksums(folder) == checksums(made)


def test_a_killed_run_leaves_no_half_data_set_and_is_cleaned_up(made, server, tmp_path):
    """A real process that dies without any clean-up in the middle of writing."""
    script, folder = tmp_path / 'script.py', tmp_path / 'new/scenes'
    folder.parent.mkdir()
    script.write_text(
        'import os\n'
        'from mmseg_semi.prepare import digit_scenes as module\n'
        'module.write_meta = lambda *args: os._exit(9)\n'
        f'module.main([{str(folder)!r}, *{SMALL_ARGS!r}])\n'
    )
    server.run(script, code=9)
    assert not folder.exists() and len(list(folder.parent.iterdir())) == 1
    assert run(folder) == 0
    assert checksums(folder) == checksums(made)
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.skipif(digit_scenes.fcntl is None, reason='needs file locks')
def test_two_runs_at_once_do_not_meet(tmp_path, capsys):
    with digit_scenes._workspace(tmp_path / 'scenes') as space:
        (space / 'new').mkdir()
        assert run(tmp_path / 'scenes') == 2
        assert (space / 'new').exists()
    assert 'another run' in capsys.readouterr().err
    assert run(tmp_path / 'scenes') == 0


# ------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ('args', 'parts'),
    [
        (['--classes', '3', '3'], ['--classes is 3 3', 'different digits']),
        (['--classes', '3', '12'], ['--classes is 3 12', '0 to 9']),
        (['--labeled', '4'], ['--labeled is 4', 'at least 5']),
        (['--labeled', '20', '--subsets', '10', '30'], ['--subsets is 10 30', 'to 20']),
        (['--subsets', '2', '10'], ['--subsets is 2 10', 'from 5']),
        (['--subsets', '10', '10'], ['--subsets is 10 10', 'different sizes']),
        (['--digits-per-scene', '3', '1'], ['--digits-per-scene is 3 1', 'MIN <= MAX']),
        (['--digit-size', '26', '80'], ['--digit-size is 26 80', '64']),
        (['--rotation', '180'], ['--rotation is 180', '0 to 45']),
        (['--noise', '-1'], ['--noise is -1', '0 to 5']),
        (['--val', '0'], ['--val is 0', '1 or more']),
    ],
)
def test_wrong_arguments(tmp_path, capsys, args, parts):
    assert digit_scenes.main([str(tmp_path / 'scenes'), *args]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert list(tmp_path.iterdir()) == []


def test_default_subsets_are_half_and_all():
    assert SceneParams().subsets == (60, 120)
    assert SceneParams(labeled=8).subsets == (8,)  # four images cannot hold five classes


def test_without_scikit_learn_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    assert run(tmp_path / 'scenes') == 2
    assert 'pip install scikit-learn' in capsys.readouterr().err


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run(tmp_path / 'scenes') == 1
    assert 'cannot write' in capsys.readouterr().err


def test_the_script_runs_as_a_program(made, server):
    command = (SCRIPT, made, *SMALL_ARGS)
    assert 'complete already' in server.run(*command).output
    assert server.run(*command, '--seed', '5', code=2).output.startswith('error: ')
