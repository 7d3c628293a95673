"""How often neighboring pixels share their class: against a loop over all pairs of pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tool_runs import CONFIGS, TOOLS, write_config

from mmseg_semi.analysis.neighbor_agreement import count_pairs
from mmseg_semi.models.refiners import NeighborhoodRefiner

TOOL = TOOLS / 'analysis_tools' / 'neighbor_agreement.py'
BASE = 's4mc/s4mc_unet_digit-scenes-60.py'
CLASSES = ['background', 'zero', 'one', 'two', 'three', 'four']


@pytest.fixture(scope='module')
def root(digit_root, tmp_path_factory):
    """The tiny scenes with unknown pixels: a frame, a block and a checkered corner."""
    root = tmp_path_factory.mktemp('unknown') / 'digit_scenes'
    shutil.copytree(digit_root, root)
    paths = sorted((root / 'annotations' / 'labeled').glob('*.png'))
    for path, part in zip(paths, ('frame', 'block', 'checkers')):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if part == 'frame':
            mask[0], mask[:, -1] = 255, 255
        elif part == 'block':
            mask[20:44, 16:50] = 255
        else:
            mask[:32:2, :32:2] = 255
        assert cv2.imwrite(str(path), mask)
    return root


def masks_of(root):
    names = (root / 'splits' / 'labeled_8.txt').read_text().split()
    folder = root / 'annotations' / 'labeled'
    return [cv2.imread(str(folder / f'{name}.png'), cv2.IMREAD_UNCHANGED) for name in names]


def by_hand(masks, window, connectivity, classes=6):
    """Every ordered pair of two pixels of known class, one at a time."""
    total, same, places = 0, [0] * classes, [0] * classes
    reach = window // 2
    for mask in masks:
        height, width = mask.shape
        rows = mask.tolist()
        for y in range(height):
            for x in range(width):
                one = rows[y][x]
                if one >= classes:
                    continue
                for v in range(max(0, y - reach), min(height, y + reach + 1)):
                    for u in range(max(0, x - reach), min(width, x + reach + 1)):
                        steps = abs(v - y) + abs(u - x)
                        if steps == 0 or (connectivity == 4 and steps > reach):
                            continue
                        if rows[v][u] < classes:
                            total += 1
                            places[one] += 1
                            same[one] += rows[v][u] == one
    return total, same, places


def measure(server, folder, config, *args, code=0):
    out = folder / 'sub' / 'agreement.json'
    done = server.run(TOOL, config, '--out', out, *args, code=code)
    return out, done.output


@pytest.mark.parametrize('window, connectivity', [(3, 8), (5, 4)])
def test_file_is_what_a_loop_over_pairs_finds(server, root, tmp_path, window, connectivity):
    config = write_config(tmp_path / 'config.py', BASE, root)
    options = ['--window', window, '--connectivity', connectivity]
    out, output = measure(server, tmp_path, config, *options)
    found = json.loads(out.read_text())
    total, same, places = by_hand(masks_of(root), window, connectivity)
    assert (found['window'], found['connectivity']) == (window, connectivity)
    assert found['classes'] == CLASSES
    assert 2 * found['pairs'] == total
    assert found['per_class'] == pytest.approx([n / total for n in same], rel=1e-12)
    assert found['overall'] == pytest.approx(sum(same) / total, rel=1e-12)
    conditional = [n / max(m, 1) for n, m in zip(same, places)]
    assert found['conditional'] == pytest.approx(conditional, rel=1e-12)
    assert 0.5 < found['overall'] < 1 and sum(n > 0 for n in same) >= 4
    assert f'{found["pairs"]} pairs in 8 masks' in output
    assert [path.name for path in out.parent.iterdir()] == ['agreement.json']


def test_defaults_are_the_papers_window_and_a_file_in_the_present_folder(server, root, tmp_path):
    config = write_config(tmp_path / 'config.py', BASE, root)
    server.run(TOOL, config, cwd=tmp_path)
    found = json.loads((tmp_path / 'neighbor_agreement.json').read_text())
    assert (found['window'], found['connectivity']) == (3, 8)


@pytest.mark.parametrize('connectivity', [8, 4])
@pytest.mark.parametrize('window', [3, 5, 7])
def test_counts_of_random_masks(window, connectivity):
    source = np.random.default_rng(window)
    masks = [source.choice([0, 1, 2, 255], size) for size in ((9, 13), (7, 4), (2, 9), (8, 8))]
    masks[3][:] = 255
    for mask in masks:
        mask = mask.astype(np.uint8)
        pairs, (same, places) = count_pairs(mask, 3, window, connectivity)
        total, expected, ordered = by_hand([mask], window, connectivity, classes=3)
        assert (2 * pairs, [2 * n for n in same.tolist()]) == (total, expected)
        assert places.tolist() == ordered


def test_plain_supervised_configs_are_measured_too(server, root, tmp_path):
    whole, _ = measure(server, tmp_path / 'a', write_config(tmp_path / 'a.py', BASE, root))
    config = tmp_path / 'plain.py'
    dataset = dict(data_root=str(root), ann_file='splits/labeled_8.txt')
    config.write_text(
        f'_base_ = {str(CONFIGS / "supervised/supervised_unet_digit-scenes-60.py")!r}\n'
        f'train_dataloader = dict(dataset=dict(labeled={dataset!r}))\n'
    )
    plain, _ = measure(server, tmp_path / 'b', config)
    assert plain.read_text() == whole.read_text()


def test_refiner_reads_the_file(server, root, tmp_path):
    out, _ = measure(server, tmp_path, write_config(tmp_path / 'config.py', BASE, root))
    found = json.loads(out.read_text())
    table = NeighborhoodRefiner(joint=str(out)).joint_table
    assert table.tolist() == pytest.approx(found['per_class'], rel=1e-6)
    overall = NeighborhoodRefiner(joint=str(out), joint_key='overall')
    assert overall.joint == found['overall']


# ----------------------------------------------------------------------------------- failures
def labeled_changes(**labeled):
    return dict(train_dataloader=dict(dataset=dict(labeled=labeled)))


def test_a_config_without_masks_is_refused(server, root, tmp_path):
    no_masks = labeled_changes(pipeline=[dict(type='LoadImageFromFile')])
    config = write_config(tmp_path / 'config.py', BASE, root, **no_masks)
    out, output = measure(server, tmp_path, config, code=1)
    assert f'{config}: train_dataloader.dataset has no labeled masks' in output
    assert 'Traceback' not in output and not out.parent.exists()


def test_masks_that_know_nothing_are_refused(server, root, tmp_path):
    shutil.copytree(root, tmp_path / 'scenes')
    for path in (tmp_path / 'scenes' / 'annotations' / 'labeled').glob('*.png'):
        cv2.imwrite(str(path), np.full((64, 64), 255, np.uint8))
    config = write_config(tmp_path / 'config.py', BASE, tmp_path / 'scenes')
    out, output = measure(server, tmp_path, config, code=1)
    assert 'no two neighboring pixels of known class' in output
    assert 'Traceback' not in output and not out.parent.exists()


def test_a_run_that_fails_leaves_an_earlier_file_alone(server, root, tmp_path):
    shutil.copytree(root, tmp_path / 'scenes')
    config = write_config(tmp_path / 'config.py', BASE, tmp_path / 'scenes')
    out, _ = measure(server, tmp_path, config)
    before = out.read_bytes()
    name = (root / 'splits' / 'labeled_8.txt').read_text().split()[-1]
    broken = Path(tmp_path / 'scenes' / 'annotations' / 'labeled' / f'{name}.png')
    broken.write_bytes(broken.read_bytes()[:40])
    measure(server, tmp_path, config, code=1)
    assert out.read_bytes() == before
    broken.unlink()
    _, output = measure(server, tmp_path, config, code=1)
    assert 'have no mask' in output and name in output
    assert out.read_bytes() == before and [p.name for p in out.parent.iterdir()] == [out.name]


def test_unknown_windows_are_refused(server, root, tmp_path):
    config = write_config(tmp_path / 'config.py', BASE, root)
    for option, value in (('--window', 4), ('--connectivity', 6)):
        out, output = measure(server, tmp_path, config, option, value, code=2)
        assert option in output and not out.parent.exists()
