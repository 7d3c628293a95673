"""Comparing trainings: compare's table, report's page."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from leaves import CLASSES
from mmengine.config import Config
from mmseg.evaluation import IoUMetric
from PIL import Image
from saved_models import NEAR, saved_model
from test_apis.test_check_page import BROWSERS, Page

from mmseg_semi.apis.saved_model import load_saved
from mmseg_semi.engine.hooks.pseudo_label_progress_hook import write_arrays
from mmseg_semi.utils.config import data_places
from mmseg_semi.utils.drawing import colors
from mmseg_semi.zoo import compare, report
from mmseg_semi.zoo.evaluating import (
    class_iou,
    count_bins,
    count_confusion,
    evaluate,
    validation_batches,
)
from mmseg_semi.zoo.run_logs import find_runs, rows_of

NAMES = dict(supervised=(40.0, 42.0), unimatch=(45.0, 46.0))
PLAIN = NEAR.replace('segmentor=dict(', '', 1).replace(')))\n', '))\n')


def write_logs(folder: Path, score: float, method: bool) -> None:
    logs = folder / '20260101_000000'
    (logs / 'vis_data').mkdir(parents=True)
    lines = []
    for step in range(1, 13):
        line = dict(base_lr=0.1, loss=1.0 / step, time=30.0, step=step)
        lines.append(dict(line, selected=0.5) if method else line)
        if step % 6 == 0:
            lines.append(dict(aAcc=90.0, mIoU=score + 6 - step, time=1.0, step=step))
    texts = [json.dumps(line) for line in lines]
    (logs / 'vis_data/scalars.json').write_text('\n'.join([*texts, '{"cut off']))
    if method:
        write_progress(logs)
        entry = dict(iter=5, kind='all', text='99.9% <of> the unlabeled pixels')
        (logs / 'warnings.jsonl').write_text(json.dumps(entry) + '\n')


def write_progress(logs: Path) -> None:
    """What the hook keeps of two images, at two validations."""
    images = {f'image{i}': np.full((20, 30, 3), 99, np.uint8) for i in (0, 1)}
    table = colors(dict(classes=CLASSES))
    paths = np.array(['a/0.png', 'a/1.png'])
    named = dict(classes=np.array(CLASSES), colors=table, paths=paths)
    write_arrays(logs / 'pseudo_labels/images.npz', **images, **named)
    for step in (6, 12):
        label = np.full((2, 20, 30), int(step == 12), np.uint8)
        light = np.full((2, 20, 30), 255 * (step == 12), np.uint8)
        arrays = dict(label=label, refined=label, light=light)
        write_arrays(logs / f'pseudo_labels/step_{step}.npz', **arrays)


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> Path:
    """Two seeds of two configs; the folder of the work folders."""
    root = tmp_path_factory.mktemp('reports')
    for name, scores in NAMES.items():
        first = saved_model(
            root / name, f'{name}/{name}_unet_custom.py', NEAR if name == 'unimatch' else PLAIN
        )
        for seed, score in enumerate(scores):
            folder = root / 'work' / name / f'seed{seed}'
            folder.mkdir(parents=True)
            cfg = Config.fromfile(first.parent / 'config.py')
            cfg.merge_from_dict(dict(randomness=dict(seed=seed), work_dir=str(folder)))
            cfg.dump(str(folder / f'{name}.py'))
            shutil.copy(first, folder / 'iter_12.pth')
            (folder / 'last_checkpoint').write_text(str(folder / 'iter_12.pth'))
            write_logs(folder, score, name == 'unimatch')
    finding = dict(number='W26', severity='warning', kind='', text='rare', what_to_do='Look.')
    data = data_places(Config.fromfile(root / 'work/unimatch/seed0/unimatch.py'))
    assert len(data) > 5
    text = json.dumps(dict(data=data, findings=[dict(finding, files=[])]))
    (root / 'work/unimatch/seed0/check.json').write_text(text)
    return root / 'work'


def test_rows_are_configs_and_their_runs_seeds(runs):
    rows = rows_of(find_runs([runs / 'unimatch', runs]))
    assert [row.name for row in rows] == ['unimatch', 'supervised']
    assert [[run.seed for run in row.runs] for row in rows] == [[0, 1], [0, 1]]
    run = rows[0].runs[0]
    assert run.minutes == 6.0  # 12 steps of half a minute
    assert run.curve('mIoU') == [(6, 45.0), (12, 39.0)]
    assert rows[0].scores('mIoU', 'best') == [(0, 45.0), (1, 46.0)]
    assert rows[0].scores('mIoU', 'test') == []


def test_what_the_guard_has_trained_is_a_row_of_its_own(runs, tmp_path):
    run = tmp_path / 'unimatch'
    shutil.copytree(runs / 'unimatch/seed0', run)
    shutil.copytree(run, run / 'labels_alone')
    cfg = Config.fromfile(run / 'labels_alone/unimatch.py')
    cfg.model.warmup_iters = 12
    cfg.dump(str(run / 'labels_alone/unimatch.py'))
    rows = rows_of(find_runs([tmp_path]))
    assert sorted(row.name for row in rows) == ['unimatch', 'unimatch (labels alone)']


def test_a_test_of_what_the_guard_has_taken_is_none_of_the_method(runs, tmp_path):
    run = tmp_path / 'unimatch'
    shutil.copytree(runs / 'unimatch/seed0', run)
    names = 'with_unlabeled_best_mIoU_iter_6.pth', 'best_mIoU_iter_12.pth'
    for number, name in enumerate(names):
        folder = run / f'test/2026010{number}_000000'
        folder.mkdir(parents=True)
        (folder / f'{folder.name}.json').write_text(json.dumps(dict(mIoU=40.0 + number)))
        (folder / f'{folder.name}.log').write_text(f'- INFO - Load checkpoint from work/{name}\n')
        os.utime(folder / f'{folder.name}.json', (number, number))
    assert find_runs([run])[0].tested == dict(mIoU=41.0)
    (run / names[0]).touch()
    assert find_runs([run])[0].tested == dict(mIoU=40.0)
    shutil.copytree(runs / 'unimatch/seed1', tmp_path / 'other/unimatch')
    with pytest.raises(
        SystemExit,
        match='--of test: .*other.* has no test of its own .* says mIoU: .* CHECKPOINT --work-dir',
    ):
        cfg = Config.fromfile(tmp_path / 'other/unimatch/unimatch.py')
        cfg.model.warmup_iters = 7
        cfg.dump(str(tmp_path / 'other/unimatch/unimatch.py'))
        compare.main([str(tmp_path), '--of', 'test'])


def test_a_report_shows_the_network_of_the_method(runs, tmp_path):
    """Where the guard has taken that of the labels alone, it keeps the other one."""
    shutil.copytree(runs / 'unimatch/seed0', tmp_path / 'one')
    (run,) = find_runs([tmp_path])
    assert report.checkpoint_of(run) == str(tmp_path / 'one/iter_12.pth')
    for name in ('best_mIoU_iter_6.pth', 'with_unlabeled_best_mIoU_iter_12.pth'):
        (tmp_path / 'one' / name).touch()
        assert report.checkpoint_of(run) == str(tmp_path / 'one' / name)


def test_a_run_that_was_resumed_is_in_the_row_of_the_others(runs, tmp_path):
    for seed in (0, 1):
        shutil.copytree(runs / f'unimatch/seed{seed}', tmp_path / f'seed{seed}')
    for seed, init in enumerate((dict(type='Pretrained', checkpoint='a.pth'), None)):
        cfg = Config.fromfile(tmp_path / f'seed{seed}/unimatch.py')
        cfg.model.segmentor.backbone.init_cfg = init
        cfg.dump(str(tmp_path / f'seed{seed}/unimatch.py'))
    (row,) = rows_of(find_runs([tmp_path]))
    assert [run.seed for run in row.runs] == [0, 1]


def test_unfinished_runs_are_named(runs, tmp_path, capsys):
    shutil.copytree(runs / 'unimatch/seed0', tmp_path / 'one')
    cfg = Config.fromfile(tmp_path / 'one/unimatch.py')
    for length, said in ((12, ''), (20, 'step 12 of 20')):
        cfg.merge_from_dict({'train_cfg.max_iters': length})
        cfg.dump(str(tmp_path / 'one/unimatch.py'))
        compare.main([str(tmp_path)])
        printed = capsys.readouterr().out
        assert ('Not finished' in printed) == bool(said) and said in printed


def test_a_training_from_the_beginning_takes_the_place_of_an_earlier_one(runs, tmp_path):
    shutil.copytree(runs / 'unimatch/seed0', tmp_path / 'one')
    later = tmp_path / 'one/20260103_000000/vis_data'
    later.mkdir(parents=True)
    lines = [dict(loss=1.0, time=1.0, step=1), dict(mIoU=7.0, step=4)]
    (later / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    (run,) = find_runs([tmp_path])
    assert run.curve('mIoU') == [(4, 7.0)] and run.curve('loss') == [(1, 1.0)]
    lines = [dict(loss=0.5, time=1.0, step=3), dict(mIoU=9.0, step=6)]  # resumed after step 2
    later = tmp_path / 'one/20260104_000000/vis_data'
    later.mkdir(parents=True)
    (later / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    (run,) = find_runs([tmp_path])
    assert run.curve('mIoU') == [(6, 9.0)] and run.curve('loss') == [(1, 1.0), (3, 0.5)]


def test_the_table(runs, tmp_path, capsys):
    out = tmp_path / 'table.csv'
    compare.main([str(runs), '--of', 'best', '--out', str(out)])
    table = list(csv.reader(out.open()))
    assert table[0][2] == 'above supervised (± standard error)'
    # 45 - 40 and 46 - 42: 4.5, deviation 0.707, over the root of 2.
    assert table[1] == ['supervised', '41.00 ± 1.41', '', '0, 1', '40.00, 42.00', '6.0']
    assert table[2] == ['unimatch', '45.50 ± 0.71', '+4.50 ± 0.50', '0, 1', '45.00, 46.00', '6.0']
    compare.main([str(runs), '--base', 'unimatch'])
    printed = capsys.readouterr().out
    assert 'mIoU of the last validation.' in printed
    assert '| supervised | 35.00 ± 1.41 | -4.50 ± 0.50 | 0, 1 |' in printed


def test_a_test_is_taken_where_all_have_one(runs, tmp_path, capsys):
    copy = shutil.copytree(runs / 'supervised/seed0', tmp_path / 'one')
    folder = copy / 'test/20260102_000000'
    folder.mkdir(parents=True)
    (folder / '20260102_000000.json').write_text('{"mIoU": 77.25, "time": 1}')
    compare.main([str(copy)])
    assert 'mIoU of the newest test.' in (said := capsys.readouterr().out) and '77.25' in said
    folder = copy / 'test/20260103_000000'  # images without masks
    folder.mkdir()
    (folder / '20260103_000000.json').write_text('{"data_time": 0.1, "time": 1}')
    compare.main([str(copy)])
    assert '77.25' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('row', 'base', 'wanted'),
    [
        ([(0, 3.0), (1, 5.0)], [(0, 1.0), (1, 1.0)], (3.0, 1.0)),
        # Other seeds: variances 2 and 8 over 2 runs each.
        ([(0, 3.0), (1, 5.0)], [(2, 0.0), (3, 4.0)], (2.0, 5**0.5)),
        ([(None, 3.0), (None, 5.0)], [(None, 0.0), (None, 4.0)], (2.0, 5**0.5)),
        ([(0, 3.0)], [(0, 1.0)], (2.0, None)),
        ([(0, 3.0)], [(1, 1.0)], (2.0, None)),
    ],
)
def test_differences(row, base, wanted):
    assert compare.difference(row, base) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--metric', 'mIuO'], "mIuO: supervised has no such score.* Did you mean 'mIoU'?"),
        (['--of', 'test'], 'mIoU: supervised has no such score of the newest test'),
        (['--base', 'unimatc'], "no such row. Did you mean 'unimatch'?"),
        (['--out', 'a.txt'], r'--out a.txt: name a file that ends with .md or .csv'),
    ],
)
def test_what_cannot_be_compared(runs, words, message):
    with pytest.raises(SystemExit, match=message):
        compare.main([str(runs), *words])


def test_folders_without_a_training(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder, name that of a training'):
        compare.main([str(runs), str(tmp_path / 'none')])
    with pytest.raises(FileNotFoundError, match='no training has left its log here'):
        report.main([str(runs), str(tmp_path)])


def test_counts():
    truth = np.array([[0, 0, 1], [1, 255, 2]])
    label = np.array([[0, 1, 1], [1, 1, 0]])
    confusion = count_confusion(truth, label, 4)
    assert confusion[:3, :3].tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert class_iou(confusion).tolist() == pytest.approx(
        [100 / 3, 200 / 3, 0, np.nan], nan_ok=True
    )
    bins = count_bins(np.array([0.0, 0.5, 0.51, 1.0]), np.array([False, True, False, True]))
    assert bins[[0, 7, 14]].tolist() == [[1, 0, 0], [2, 1.01, 1], [1, 1, 1]]
    assert bins.sum() == 4 + 2.01 + 2


def test_the_counts_are_those_of_mmseg(runs):
    saved = load_saved(str(runs / 'unimatch/seed0/iter_12.pth'))
    found = evaluate(saved, validation_batches(saved), keep=True)
    total = 0
    for i, path in enumerate(found.paths):
        name = Path(path).stem
        truth = np.array(Image.open(Path(path).parents[2] / f'annotations/val/{name}.png'))
        assert np.array_equal(found.truth(i), truth)
        pair = (torch.from_numpy(found.label(i)), torch.from_numpy(truth))
        total = total + np.stack(IoUMetric.intersect_and_union(*pair, 3, 255))
    assert len(found.paths) == 3
    assert found.iou.tolist() == pytest.approx((100 * total[0] / total[1]).tolist())


@pytest.fixture(scope='module')
def page(runs) -> Path:
    out = runs / 'report.html'
    report.main([str(runs), '--out', str(out), '--of', 'best'])
    return out


def test_the_page(page):
    text = page.read_text()
    found = Page(text)
    assert not [link for link in found.links if not link.startswith(('data:', '#'))]
    for wanted in ('+4.50 ± 0.50', 'IoU of each class', *CLASSES, 'Calibration', 'Losses', 'W26'):
        assert wanted in ' '.join(found.texts), wanted
    assert '99.9% <of> the unlabeled pixels' in ' '.join(found.texts)
    alts = [alt for alt, _ in found.images]
    # Three images: the two worst and the best one, as image, truth and two predictions each.
    assert len([alt for alt in alts if '/images/val/' in alt]) == 3 * 4
    assert all(re.match('data:image/(png|jpeg);base64,', source) for _, source in found.images)
    assert 'not selected' in ' '.join(found.texts)


def test_pseudo_labels_of_the_same_images(page):
    shown = dict(Page(page.read_text()).images)
    table = colors(dict(classes=CLASSES))
    for path in ('a/0.png', 'a/1.png'):
        assert color_of(shown[path]) == (99, 99, 99)
        for step, number in ((6, 0), (12, 1)):
            end = f'{path}, unimatch, step {step}'
            assert color_of(shown[f'pseudo-labels of {end}']) == tuple(table[number].tolist())
            used = tuple(table[number].tolist()) if step == 12 else (0, 0, 0)
            assert color_of(shown[f'trained with of {end}']) == used


def color_of(source: str) -> tuple[int, ...]:
    """The only color of a picture of a page."""
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(',')[2])))
    ((_, color),) = image.convert('RGB').getcolors()
    return color


def test_curves_of_few_points_show_them():
    def marks(count):
        points = [(step, 1.0) for step in np.linspace(0, 10, count)]
        row = SimpleNamespace(name='a', runs=[SimpleNamespace(curve=lambda name: points)])
        return report._figure([row], ['mIoU'], smoothed=False).count('<use')

    assert marks(10) == marks(11) + 10 + 1  # and one in the legend


def test_the_page_without_predictions_or_checkpoints(runs, tmp_path, capsys):
    copy = shutil.copytree(runs / 'unimatch/seed0', tmp_path / 'one')
    report.main([str(copy), '--out', str(tmp_path / 'a.html'), '--no-predict'])
    assert 'IoU of each class' not in (tmp_path / 'a.html').read_text()
    (copy / 'iter_12.pth').unlink()
    (copy / 'last_checkpoint').unlink()
    report.main([str(copy), '--out', str(tmp_path / 'b.html')])
    assert f'{copy} has no checkpoint' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='name a file that ends with .html'):
        report.main([str(copy), '--out', str(tmp_path / 'b.pdf')])


def test_other_validation_images_are_not_mixed(runs, tmp_path, capsys):
    copy = shutil.copytree(runs / 'unimatch/seed0', tmp_path / 'other')
    cfg = Config.fromfile(copy / 'unimatch.py')
    cfg.val_dataloader.dataset.data_prefix = dict(
        img_path='images/labeled', seg_map_path='annotations/labeled'
    )
    cfg.dump(str(copy / 'unimatch.py'))
    (checked,) = find_runs([runs / 'unimatch/seed0'])
    (other,) = find_runs([copy])
    assert checked.check['findings'] and other.check == {}, 'of the data of another run'
    (copy / '20260101_000000/warnings.jsonl').write_text('{"cut off')
    report.main([str(runs / 'supervised'), str(copy), '--out', str(tmp_path / 'a.html')])
    said = capsys.readouterr().out
    assert f'{copy}/iter_12.pth is not predicted with: its validation images are others' in said
    assert 'IoU of each class' in (tmp_path / 'a.html').read_text()


def test_the_page_in_a_browser(page, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f'there is no browser: none of {", ".join(BROWSERS)} is installed')
    command = [
        browser,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--dump-dom',
        '--host-resolver-rules=MAP * 0.0.0.0',
        f'--user-data-dir={tmp_path}/profile',
    ]
    dom = subprocess.run([*command, page.as_uri()], check=True, capture_output=True)
    ours = Page(page.read_text())
    shown = Page(dom.stdout.decode())
    assert (
        shown.images == ours.images
        and [one for one in shown.texts if one in ours.texts] == ours.texts
    )
