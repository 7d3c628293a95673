"""Lists from one folder: who gets a mask, shares of classes, groups, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mmseg_semi.datasets.splits import split_hash
from mmseg_semi.errors import DataError
from mmseg_semi.files import list_text
from mmseg_semi.prepare.dividing import Request, divide, fill_empty, stratify
from mmseg_semi.prepare.split_folder import split_folder
from mmseg_semi_cli.own_images import split


def write(root: Path, name: str, classes: tuple[int, ...] = ()) -> None:
    """An image, and a mask of these classes if any."""
    for folder, value in (('images', (1,)), ('annotations', classes)):
        path = root / folder / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        if value:
            Image.fromarray(np.array([value], np.uint8)).save(path)


def read(folder: Path, part: str) -> list[str]:
    return (folder / f'{part}.txt').read_text().split()


@pytest.fixture
def leaves(tmp_path) -> Path:
    """20 images with masks, 5 with the rare class 2 and one without a known pixel; 10 without."""
    for i in range(20):
        write(tmp_path, f'tree{i // 4}/leaf{i:02}', (0, 2) if i % 4 == 0 else (0, 1))
    for i in range(10):
        write(tmp_path, f'tree{i % 7}/free{i:02}')
    write(tmp_path, 'tree0/unknown', (255,))
    return tmp_path


def test_parts_have_their_sizes_and_every_class(leaves):
    said = split_folder(leaves, Request(6, val=0.2, test=0.3, seed=1))
    folder = leaves / 'splits/6-seed1'
    parts = {part: read(folder, part) for part in ('labeled', 'unlabeled', 'val', 'test')}
    assert {part: len(names) for part, names in parts.items()} == dict(
        labeled=6, val=4, test=6, unlabeled=4 + 10 + 1
    )
    every = sum(parts.values(), [])
    assert len(set(every)) == len(every) == 31
    with_rare = {f'tree{i // 4}/leaf{i:02}' for i in range(0, 20, 4)}
    shares = {part: len(with_rare & set(names)) for part, names in parts.items()}
    assert shares == dict(labeled=2, val=1, test=1, unlabeled=1) or shares == dict(
        labeled=1, val=1, test=2, unlabeled=1
    )
    assert 'tree0/unknown' in parts['unlabeled'] and '1 masks have no known pixel' in said
    assert 'images with class 0: 6, 1: ' in said
    note = json.loads((folder / 'split.json').read_text())
    assert note['hash'] == split_hash(parts['labeled'], parts['unlabeled'])
    assert (note['seed'], note['images']['test']) == (1, 6)


def test_a_second_run_changes_nothing_and_another_is_refused(leaves):
    split_folder(leaves, Request(6))
    folder = leaves / 'splits/6-seed0'
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert 'unchanged' in split_folder(leaves, Request(6))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    write(leaves, 'tree9/new', (0, 1))
    with pytest.raises(DataError, match='exists and names other images; nothing was written'):
        split_folder(leaves, Request(6))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert 'written' in split_folder(leaves, Request(6), overwrite=True)


@pytest.mark.parametrize('seed', range(5))
def test_a_group_stays_in_one_part(leaves, seed):
    said = split_folder(leaves, Request(8, val=0.2, test=0.2, seed=seed, group_by=r'^(tree\d+)/'))
    folder = leaves / f'splits/8-seed{seed}'
    parts = {part: read(folder, part) for part in ('labeled', 'unlabeled', 'val', 'test')}
    groups = {part: {name.split('/')[0] for name in names} for part, names in parts.items()}
    assert all(a == b or not groups[a] & groups[b] for a in groups for b in groups)
    assert [len(parts[part]) for part in ('labeled', 'val', 'test')] == [8, 4, 4]
    # Of the images without a mask those of trees 5 and 6 and of the tree that is left.
    assert (
        groups['unlabeled'] >= {'tree5', 'tree6'} and 'images without a mask are in no part' in said
    )


def test_the_nearest_division_is_taken_and_said(leaves):
    request = Request(3, val=0.1, test=0.3, group_by=r'^(tree\d+)/')
    said = split_folder(leaves, request)
    parts = {part: read(leaves / 'splits/3-seed0', part) for part in ('labeled', 'val', 'test')}
    assert {part: len(names) for part, names in parts.items()} == dict(labeled=4, val=4, test=4)
    assert 'nearest division: labeled 4 in place of 3, val 4 in place of 2, test 4 in pl' in said


def test_empty_parts_take_the_nearest_group():
    numbers, sizes = np.array([3, 3, 3, 2]), np.array([9, 5, 2, 7])
    fill_empty(numbers, sizes, [4, 0, 1])
    assert numbers.tolist() == [3, 0, 3, 2]
    numbers = np.array([2, 2])  # none is unlabeled
    fill_empty(numbers, np.array([5, 9]), [4, 4, 4])
    assert numbers.tolist() == [0, 2]


def test_stratify_by_hand():
    # Class 1 is in two groups, and each part wants one of them.
    presence = np.array([[1, 1], [1, 0], [1, 1], [1, 0]])
    found = stratify(presence, np.ones(4, int), [2, 2], seed=0)
    assert sorted(found.tolist()) == [0, 0, 1, 1] and found[0] != found[2]
    # A group larger than any room goes to the last part.
    assert stratify(np.array([[3], [1]]), np.array([3, 1]), [1, 2], seed=0).tolist() == [1, 0]


def test_labeled_images_differ_with_the_seed_and_not_without():
    names = [f'{i:03}' for i in range(100)]
    known = {name: np.array([True]) for name in names}
    lists = [divide(names, known, Request(10, seed=seed))[0]['labeled'] for seed in (0, 0, 1)]
    assert lists[0] == lists[1] != lists[2]


@pytest.mark.parametrize(
    ('request_', 'said'),
    [
        (Request(0), '--labeled 0: give the number'),
        (Request(15), '--labeled 15: of 20 images with masks 4 validate and 4 test, so at most 12'),
        (Request(5, val=1.0), '--val 1.0: give a share from 0 to below 1'),
        (Request(5, val=0.5, test=0.5), '--val 0.5 --test 0.5: together they must be below 1'),
        (Request(5, seed=-1), '--seed -1'),
        (Request(5, group_by='('), r'--group-by \(: no regular expression'),
        (Request(5, group_by='plant'), "--group-by plant: it does not occur in the name 'tree0"),
        (
            Request(3, group_by='tree'),
            r'part would be empty: all groups of --group-by tree \(1\) have',
        ),
    ],
)
def test_refusals(leaves, request_, said):
    with pytest.raises(DataError, match=said):
        split_folder(leaves, request_)
    assert not (leaves / 'splits').exists()


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match=r'there is no folder .*images .*\. mmseg-semi import'):
        split_folder(tmp_path, Request(1))
    write(tmp_path, 'a')
    (tmp_path / 'annotations').mkdir(exist_ok=True)
    with pytest.raises(DataError, match='has no mask'):
        split_folder(tmp_path, Request(1))
    write(tmp_path, 'b', (0, 1))
    (tmp_path / 'images/b.png').unlink()
    with pytest.raises(DataError, match=r'1 masks have no image in .*images \(b\)'):
        split_folder(tmp_path, Request(1))
    write(tmp_path, 'a', (0, 1))
    (tmp_path / 'images/a.jpg').touch()
    with pytest.raises(ValueError, match='differ in their suffix alone'):
        split_folder(tmp_path, Request(1))


def test_the_command(leaves):
    runner = CliRunner()
    arguments = [str(leaves), '--labeled', '8', '--seed', '2', '--group-by', r'^(tree\d+)/']
    done = runner.invoke(split, arguments)
    assert done.exit_code == 0 and '8-seed2: written' in done.output
    refused = runner.invoke(split, [str(leaves), '--labeled', '99'])
    assert refused.exit_code == 1 and '--labeled 99: of 20 images with masks' in refused.output


def test_a_part_without_images_has_no_list(leaves):
    folder = leaves / 'splits/6-seed0'
    split_folder(leaves, Request(6))
    with pytest.raises(DataError, match='.txt exists and names other images'):
        split_folder(leaves, Request(6, val=0.0, test=0.2))
    split_folder(leaves, Request(6, val=0.0, test=0.2), overwrite=True)
    assert not (folder / 'val.txt').exists() and len(read(folder, 'test')) == 4
    assert 'unchanged' in split_folder(leaves, Request(6, val=0.0, test=0.2))


def test_the_only_unlabeled_group_stays():
    sizes = np.array([7, 2, 1, 1])
    numbers = np.array([3, 0, 0, 1])  # nothing tests
    fill_empty(numbers, sizes, [3, 1, 2])
    assert numbers.tolist() == [3, 2, 0, 1]
    few = np.array([3, 0, 1])  # others may be unlabeled that have no masks
    fill_empty(few, np.array([5, 1, 1]), [1, 1, 2])
    assert few.tolist() == [2, 0, 1]


@pytest.mark.parametrize('name', ['#03 leaf', 'leaf ', ' leaf'])
def test_names_that_a_list_cannot_hold(name):
    with pytest.raises(DataError, match=f"name '{name}' cannot stand in a list.*: rename"):
        list_text(['good', name], DataError)
    assert list_text(['a b', 'a#b/c']) == 'a b\na#b/c\n'
