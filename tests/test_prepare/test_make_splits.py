"""Splits drawn at random: nested, balanced, the same everywhere."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tool_runs import TOOLS

from mmseg_semi.datasets.benchmark_layouts import BENCHMARK_LAYOUTS, LUCCHI, VOC12
from mmseg_semi.datasets.splits import split_hash
from mmseg_semi.errors import DataError
from mmseg_semi.prepare import make_splits

TOOL = TOOLS / 'dataset_converters' / 'make_splits.py'
NAMES = [f'slice_{i:03}' for i in range(12)]
DRAWN = {0: [9, 2, 7, 4, 5, 11], 1: [8, 11, 4, 7, 5, 0], 'balanced': [9, 3, 6, 0, 4, 5]}
CUSTOM = ('--images', 'pictures', '--masks', 'truth')


@pytest.fixture
def tool(monkeypatch):
    small = dict(lucchi=replace(LUCCHI, num_train=12), voc12=replace(VOC12, num_train=12))
    monkeypatch.setattr(make_splits, 'BENCHMARK_LAYOUTS', {**BENCHMARK_LAYOUTS, **small})
    return make_splits


def write_mask(path, classes):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(classes, np.uint8).reshape(1, -1)).convert('P')
    image.putdata(classes)
    image.save(path)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def make_lucchi(root, names=NAMES, classes=lambda i: [0, i % 2]):
    for i, name in enumerate(names):
        touch(root / 'images' / 'train' / f'{name}.png')
        write_mask(root / 'annotations' / 'train' / f'{name}.png', classes(i))
    # Validation slices have the same names and are other images.
    touch(root / 'images' / 'val' / 'slice_000.png')
    return root


@pytest.fixture
def lucchi(tmp_path):
    return make_lucchi(tmp_path / 'lucchi')


def names_in(folder):
    return tuple(
        (folder / f'{p}.txt').read_text().split('\n')[:-1] for p in ('labeled', 'unlabeled')
    )


def run(tool, *args):
    tool.main(list(map(str, args)))


def refused(tool, *args):
    with pytest.raises(SystemExit) as error:
        run(tool, *args)
    return str(error.value)


# ---------------------------------------------------------------------------------------- at random
def test_splits_are_nested_and_printed_with_their_hash(tool, lucchi, capsys):
    run(tool, 'lucchi', '--sizes', 5, 2, 9, '--data-root', lucchi)
    lines = capsys.readouterr().out.splitlines()
    before = []
    for size, line in zip((2, 5, 9), (lines[1], lines[0], lines[2])):
        labeled, unlabeled = names_in(lucchi / 'semi' / f'{size}-seed0')
        assert len(labeled) == size and labeled[: len(before)] == before
        assert unlabeled == [name for name in NAMES if name not in labeled]
        row = f'{size}-seed0 {size} labeled {12 - size} unlabeled {split_hash(labeled, unlabeled)}'
        assert ' '.join(line.split()) == f'{row} written'
        before = labeled


def test_a_split_does_not_depend_on_the_other_sizes_nor_on_the_order_of_files(
    tool, lucchi, tmp_path, monkeypatch, capsys
):
    run(tool, 'lucchi', '--sizes', 2, 5, '--data-root', lucchi)
    other, walk = make_lucchi(tmp_path / 'other', NAMES[::-1]), os.walk

    def backwards(*args, **kwargs):
        return ((path, dirs, files[::-1]) for path, dirs, files in walk(*args, **kwargs))

    monkeypatch.setattr(os, 'walk', backwards)
    run(tool, 'lucchi', '--sizes', 5, '--data-root', other)
    assert names_in(other / 'semi' / '5-seed0') == names_in(lucchi / 'semi' / '5-seed0')


def test_what_a_seed_draws_stays_what_it_was(tool):
    """Published figures name a seed; the numbers are those of numpy's generator."""
    assert tool.draw_random(12, 0)[:6] == DRAWN[0]
    assert tool.draw_random(12, 1)[:6] == DRAWN[1]
    presence = np.zeros((12, 255), bool)
    presence[:, 0] = presence[::3, 1] = True
    assert tool.draw_balanced(presence, 6, 0) == DRAWN['balanced']


def test_a_second_run_keeps_what_is_there(tool, lucchi, capsys):
    args = ('lucchi', '--sizes', 3, '--data-root', lucchi)
    run(tool, *args)
    first = names_in(lucchi / 'semi' / '3-seed0')
    run(tool, *args)
    assert capsys.readouterr().out.splitlines()[-1].endswith('unchanged')
    run(tool, *args, '--seed', 1)
    assert names_in(lucchi / 'semi' / '3-seed1') != first
    args = (*args, '--seed', 1, '--name', '{size}-seed0')
    assert '3-seed0/labeled.txt exists' in refused(tool, *args)
    assert names_in(lucchi / 'semi' / '3-seed0') == first
    run(tool, *args, '--overwrite')
    assert names_in(lucchi / 'semi' / '3-seed0') == names_in(lucchi / 'semi' / '3-seed1')


@pytest.mark.parametrize(
    'share, total, size',
    [
        *(('1/16', 10582, 662), ('1/8', 10582, 1323), ('1/4', 10582, 2646), ('1/2', 10582, 5291)),
        *(('1/30', 2975, 100), ('1/16', 2975, 186), ('1/8', 2975, 372), ('1/4', 2975, 744)),
        *(('1/512', 118287, 232), ('1/32', 118287, 3697), ('2/3', 12, 8), ('7', 12, 7)),
    ],
)
def test_shares_are_rounded_up_as_the_published_splits_are(tool, share, total, size):
    assert tool.parse_size(share, total) == size


def test_images_of_voc_are_those_of_the_list(tool, tmp_path):
    names = [f'2007_{i:06}' for i in range(12)]
    for name in [*names, '2008_000001', '2008_000002']:
        touch(tmp_path / 'JPEGImages' / f'{name}.jpg')
        touch(tmp_path / 'SegmentationClassAug' / f'{name}.png')
    folder = tmp_path / 'ImageSets' / 'Segmentation'
    folder.mkdir(parents=True)
    (folder / 'val.txt').write_text('2008_000001\n')
    args = ('voc12', '--sizes', '1/4', '--data-root', tmp_path)
    message = refused(tool, *args)
    assert 'train_aug.txt' in message and 'tools/dataset_converters/voc_sbd.py' in message
    (folder / 'train_aug.txt').write_text('\n'.join(names))
    run(tool, *args)
    labeled, unlabeled = names_in(folder / 'semi' / '3-seed0')
    assert sorted(labeled + unlabeled) == names and len(labeled) == 3
    (folder / 'train_aug.txt').write_text('\n'.join([*names[1:], '2008_000001']))
    assert '(2008_000001) are validation images' in refused(tool, *args, '--overwrite')


# ----------------------------------------------------------------------------------------- balanced
def greedy(contents, size, seed):
    """The rule, image by image, of sets of classes."""
    source, drawn = np.random.default_rng(seed), []
    total = {k: sum(k in one for one in contents) for k in set().union(*contents)}
    for _ in range(size):
        left = [i for i in range(len(contents)) if i not in drawn]
        scores = []
        for k in total:
            if any(k in contents[i] for i in left):
                scores.append((sum(k in contents[i] for i in drawn), total[k], k))
        if scores:
            left = [i for i in left if min(scores)[2] in contents[i]]
        drawn.append(left[source.integers(len(left))])
    return drawn


def test_balanced_follows_the_greedy_rule(tool):
    source = np.random.default_rng(5)
    frequency = [1, 0.5, 0.2, 0.05, 0, 0.3]
    for seed in range(5):
        presence = np.zeros((40, 255), bool)
        presence[:, :6] = source.random((40, 6)) < frequency
        presence[seed, :6] = False  # an image of ignored pixels only
        contents = [set(np.flatnonzero(row)) for row in presence]
        assert tool.draw_balanced(presence, 40, seed) == greedy(contents, 40, seed)
        assert tool.draw_balanced(presence, 7, seed) == greedy(contents, 7, seed)


def test_balanced_reads_the_masks(tool, tmp_path):
    """Class 1 is in two images, class 0 in the other ones; 255 is in all and no class."""
    root = make_lucchi(tmp_path, classes=lambda i: [255, int(i in (4, 9))])
    run(tool, 'lucchi', '--sizes', 2, 4, '--balanced', '--data-root', root)
    assert not (root / 'semi' / '4-seed0').exists(), 'the name of splits that are not balanced'
    labeled, _ = names_in(root / 'semi' / '4-seed0-balanced')
    assert labeled[0] in ('slice_004', 'slice_009'), 'the rarest class comes first'
    assert {'slice_004', 'slice_009'} < set(labeled)
    assert names_in(root / 'semi' / '2-seed0-balanced')[0] == labeled[:2]
    assert len({'slice_004', 'slice_009'} & set(labeled[:2])) == 1


def test_the_environment_says_where_the_data_are(tool, tmp_path, monkeypatch, capsys):
    root = make_lucchi(tmp_path)
    monkeypatch.setenv('LUCCHI_ROOT', str(root))
    run(tool, 'lucchi', '--sizes', 2)
    assert len(names_in(root / 'semi' / '2-seed0')[0]) == 2


@pytest.mark.parametrize('kind', ['class', 'color', 'broken', 'missing'])
def test_masks_that_are_none(tool, lucchi, kind):
    path = lucchi / 'annotations' / 'train' / 'slice_003.png'
    if kind == 'class':
        write_mask(path, [0, 2])
        message = f'mask {path} has the class 2; allowed are 0 to 1'
    elif kind == 'color':
        Image.new('RGB', (2, 2)).save(path)
        message = f'mask {path} has the shape (2, 2, 3)'
    elif kind == 'broken':
        path.write_bytes(path.read_bytes()[:20])
        message = f'mask {path} cannot be read'
    else:
        path.unlink()
        message = '--balanced: 1 of 12 images have no mask in annotations/train, such as slice_003'
    assert message in refused(tool, 'lucchi', '--sizes', 2, '--balanced', '--data-root', lucchi)
    assert not (lucchi / 'semi').exists()


# ------------------------------------------------------------------------------------------- custom
def test_custom_folders_as_a_script(server, tmp_path):
    names = ['a/one', 'a/two', 'b', 'c']
    for name in names:
        touch(tmp_path / 'pictures' / f'{name}_img.tif')
        touch(tmp_path / 'truth' / f'{name}_gt.png')
    touch(tmp_path / 'pictures' / 'other.png')
    suffixes = ('--img-suffix', '_img.tif', '--seg-map-suffix', '_gt.png', '--split-dir', 'lists')
    args = ('custom', '--sizes', '1/3', '--data-root', tmp_path, *CUSTOM, *suffixes)
    output = server.run(TOOL, *args, '--name', 'third').output
    labeled, unlabeled = names_in(tmp_path / 'lists' / 'third')
    assert len(labeled) == 2 and sorted(labeled + unlabeled) == names
    assert f'2 labeled       2 unlabeled  {split_hash(labeled, unlabeled)}  written' in output
    (tmp_path / 'truth' / f'{labeled[0]}_gt.png').unlink()
    output = server.run(TOOL, *args, code=1).output
    assert f'({labeled[0]}) are without mask in truth' in output and 'Traceback' not in output


def test_custom_needs_its_folders(tool, tmp_path):
    args = ('custom', '--sizes', 2, '--data-root', tmp_path, '--images', 'x')
    assert 'custom needs --masks' in refused(tool, *args)
    message = refused(tool, 'lucchi', '--sizes', 2, '--img-suffix', '.jpg')
    assert '--img-suffix is an option of custom' in message


# --------------------------------------------------------------------------------- wrong arguments
@pytest.mark.parametrize(
    'args, message',
    [
        (('--sizes', '0'), '--sizes 0 is 0 of 12 images'),
        (('--sizes', '12'), '--sizes 12 is 12 of 12 images'),
        (('--sizes', '0.5'), '--sizes 0.5: give a number of images such as 20, or a share: 1/16'),
        (('--sizes', '1/0'), '--sizes 1/0: give'),
        (('--sizes', '3/2'), '--sizes 3/2 is 18 of 12'),
        (('--sizes', '5', '3', '1/4'), 'give the name 3-seed0 more than once'),
        (('--sizes', '3', '4', '--name', 'x'), 'give the name x more than once'),
        (('--sizes', '3', '--name', '{size}-{fold}'), 'may contain {size} and {seed} only'),
        (('--sizes', '3', '--name', '{size'), 'may contain {size} and {seed} only'),
        (('--sizes', '3', '--name', '../{size}'), "'../3' is no name of a folder"),
        (('--sizes', '3', '--seed', '-1'), '--seed -1: it must not be negative'),
    ],
)
def test_wrong_arguments(tool, lucchi, args, message):
    assert message in refused(tool, 'lucchi', *args, '--data-root', lucchi)
    assert not (lucchi / 'semi').exists()


def test_an_incomplete_data_set_needs_partial(tool, lucchi):
    (lucchi / 'images' / 'train' / 'slice_011.png').unlink()
    args = ('lucchi', '--sizes', 2, '--data-root', lucchi)
    message = refused(tool, *args)
    assert 'lucchi has 12 training images, found are 11' in message and '--partial' in message
    run(tool, *args, '--partial')
    labeled, unlabeled = names_in(lucchi / 'semi' / '2-seed0')
    assert sorted(labeled + unlabeled) == NAMES[:11]


def test_classes_that_are_counted_from_1(tmp_path):
    """ADE20K: 0 is none of the 150 classes."""
    path = tmp_path / 'mask.png'
    Image.fromarray(np.array([[0, 1, 150]], np.uint8)).save(path)
    assert np.flatnonzero(make_splits.classes_in(path, 150, reduced=True)).tolist() == [0, 149]
    with pytest.raises(DataError, match='has the class 150; allowed are 0 to 149'):
        make_splits.classes_in(path, 150)
    Image.fromarray(np.array([[0, 1, 151]], np.uint8)).save(path)
    with pytest.raises(DataError, match='has the class 151; allowed are 1 to 150, and 255 for'):
        make_splits.classes_in(path, 150, reduced=True)
