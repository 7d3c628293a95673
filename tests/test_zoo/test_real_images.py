"""The comparison of methods on real images: which runs, on which start, and the table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import pytest
from mmengine.config import Config
from mmengine.utils import is_installed
from tool_runs import REPO

from mmseg_semi.datasets.file_digests import _digest_folders
from mmseg_semi.datasets.splits import split_hash
from mmseg_semi.detection.coco import coco_images, write_coco_files
from mmseg_semi.utils.config import load_config
from mmseg_semi.zoo import boxes, real_images, result_table
from mmseg_semi.zoo.experiments import Experiment
from mmseg_semi.zoo.real_image_rows import as_own_images, parts_of

CONFIGS = REPO / 'configs'
READ = ('results', 'images')
METHODS = {'ael', 'augseg', 'corrmatch', 'cutmix_seg', 'fixmatch', 'mean_teacher', 'rankmatch'}
METHODS |= {'s4mc', 's4mc_fixmatch', 'supervised', 'u2pl', 'unimatch'}
METHODS |= {'weighting_ael', 'weighting_unimatch'}


@pytest.fixture(autouse=True)
def lists(monkeypatch, tmp_path_factory) -> None:
    """The lists of a CamVid that is not there."""
    root = tmp_path_factory.mktemp('camvid')
    for labels in ('12', '46'):
        path = root / f'splits/{labels}/labeled.txt'
        path.parent.mkdir(parents=True)
        path.touch()
    make_parts(root)
    monkeypatch.setenv('CAMVID_ROOT', str(root))


def make_parts(root: Path) -> None:
    for kind in ('images', 'annotations'):
        for part in ('val', 'test'):
            (root / kind / part).mkdir(parents=True)


@pytest.fixture
def runs(monkeypatch) -> list[Experiment]:
    """The experiments that would have been run, in their order; each has its seed as its mIoU."""
    done: list[Experiment] = []

    def run(experiment: Experiment) -> dict[str, float]:
        done.append(experiment)
        return dict(mIoU=50.0 + experiment.seed, train_minutes=2.0)

    monkeypatch.setattr(Experiment, 'run', run)
    return done


def row(*scores: float) -> dict[int, dict[str, float]]:
    return {seed: dict(mIoU=score, train_minutes=1.5) for seed, score in enumerate(scores)}


def test_gain_is_paired():
    mean, error = result_table.gain(row(52, 55, 59), row(50, 52, 55))
    assert mean == pytest.approx(3)  # 2, 3 and 4
    assert error == pytest.approx(1 / 3**0.5)
    assert result_table.gain(row(52), row(50, 60)) == (2, None)


def test_table():
    text = result_table.table(dict(supervised=row(50, 52), better=row(53, 57)), 'supervised')
    assert text.splitlines() == [
        '| row | mIoU (mean ± std) | above supervised (± standard error) | per seed '
        '| minutes a run |',
        '| --- | --- | --- | --- | --- |',
        '| `supervised` | 51.00 ± 1.41 |  | 0: 50.00, 1: 52.00 | 1.5 |',
        '| `better` | 55.00 ± 2.83 | +4.00 ± 1.00 | 0: 53.00, 1: 57.00 | 1.5 |',
    ]
    assert 'above' not in result_table.table(dict(supervised=row(50)))


def test_rows_are_the_configs(tmp_path):
    known = real_images.rows('camvid')
    assert set(known) >= METHODS and next(iter(known)) == 'supervised'
    for data in real_images.DATA:
        assert 'weighting_unimatch' in real_images.rows(data)
        for name, path in real_images.rows(data).items():
            method, _, _, change = parts_of(path)
            assert name == (f'{method}_{change}' if change else method)
            assert path.stem.startswith(f'{method}_efficientnet-lite0_{data}-'), path
            assert parts_of(path).labels.isdigit()
    assert 'supervised_strong' in real_images.rows('camvid')
    for data in real_images.DATA:
        for name, path in real_images.rows(data).items():
            without = name.startswith('supervised') or name.endswith('_student')
            teacher = Config.fromfile(path).model.get('teacher') or {}
            assert teacher.get('type') == (None if without else 'EMATeacher'), name
    for method in ('supervised', 'unimatch'):
        (tmp_path / 'method').mkdir(exist_ok=True)
        (tmp_path / f'method/{method}_efficientnet-lite0_nuclei-20.py').touch()
    change = tmp_path / 'method/ablations/unimatch_efficientnet-lite0_nuclei-20_one-view.py'
    change.parent.mkdir()
    change.touch()
    found = real_images.rows('nuclei', tmp_path)
    assert list(found) == ['supervised', 'unimatch', 'unimatch_one-view']
    assert found['unimatch_one-view'] == change and parts_of(change).labels == '20'


def test_every_row_goes_on_from_the_start_of_its_seed(runs, tmp_path, capsys):
    out = tmp_path / 'table.md'
    arguments = ['--data', 'camvid', '--methods', 'unimatch', 'supervised', '--seeds', '0', '3']
    real_images.main([*arguments, '--work-dir', 'work', '--out', str(out)])
    starts, rest = runs[:2], runs[2:]
    assert [run.work_dir for run in starts] == [f'work/camvid-12/start/seed{i}' for i in (0, 3)]
    assert all(run.options == ['train_cfg.max_iters=500'] for run in starts)
    assert {Path(run.config).name.split('_')[0] for run in starts} == {'supervised'}
    unimatch, supervised = (
        next(run for run in rest if name in run.config and run.seed == 3)
        for name in ('unimatch', 'supervised')
    )
    load = f'load_from={starts[1].work_dir}/iter_500.pth'
    assert supervised.options == [load, 'train_cfg.max_iters=500']
    assert unimatch.options == [load, 'train_cfg.max_iters=500', 'model.warmup_iters=0']
    assert not any(run.best for run in runs)
    text = out.read_text()
    assert text in capsys.readouterr().out
    assert 'camvid, 12 labeled images, test part.' in text and 'seeds 0, 3.' in text
    assert '| `unimatch` | 51.50 ± 2.12 | +0.00 ± 0.00 | 0: 50.00, 3: 53.00 | 2.0 |' in text


def test_custom_rows_are_the_configs_for_own_images_as_they_are(runs, tmp_path, capsys):
    arguments = ['--data', 'camvid', '--methods', 'unimatch', 'supervised', '--custom']
    real_images.main([*arguments, '--seeds', '0', '3', '--work-dir', str(tmp_path / 'work')])
    dataset = 'train_dataloader.dataset'
    labeled = [f'{dataset}.labeled.ann_file=splits/12/labeled.txt']
    both = [*labeled, f'{dataset}.unlabeled.ann_file=splits/12/unlabeled.txt']
    assert {run.work_dir: run.options for run in runs} == {
        f'{tmp_path}/work/camvid-12-custom/{name}/seed{seed}': lists
        for name, lists in dict(unimatch=both, supervised=labeled).items()
        for seed in (0, 3)
    }
    assert all(run.best for run in runs), 'the checkpoint that the guard keeps'
    said = 'camvid, 12 labeled images, test part, configs for own images.'
    assert said in capsys.readouterr().out


@pytest.mark.parametrize('name', real_images.rows('custom'))
def test_custom_row_differs_from_the_shipped_config_in_its_images_alone(tmp_path, name):
    base, config = real_images.rows('camvid')['supervised'], real_images.rows('custom')[name]
    child = as_own_images(config, base, tmp_path)
    users = tmp_path / 'users.py'  # what a user writes, as docs/own_images.md says
    classes = Config.fromfile(base).metainfo.classes
    users.write_text(
        f'_base_ = [{str(config)!r}, {str(CONFIGS / "custom/laptop.py")!r}]\n'
        f'data_root = {os.environ["CAMVID_ROOT"]!r}\n'
        f'classes = {classes!r}\nscale = None\n'
    )
    ours, theirs = load_config(child).to_dict(), load_config(users).to_dict()
    for part, kinds in dict(labeled=2, unlabeled=1).items():
        dataset = ours['train_dataloader']['dataset'].get(part)
        if dataset:
            assert len(dataset['data_prefix']) == kinds
            assert dataset.pop('data_prefix')['img_path'] == 'images/train'
            theirs['train_dataloader']['dataset'][part].pop('data_prefix')
    for part in ('val', 'test'):
        prefix = ours[f'{part}_dataloader']['dataset'].pop('data_prefix')
        assert prefix == dict(img_path=f'images/{part}', seg_map_path=f'annotations/{part}')
        theirs[f'{part}_dataloader']['dataset'].pop('data_prefix')
    assert ours == theirs


def test_custom_rows_have_settings_and_a_ceiling(runs, tmp_path):
    arguments = ['--data', 'camvid', '--methods', 'corrmatch:no-soft', '--custom', '--seeds', '0']
    work = ['--work-dir', str(tmp_path), '--labels', '12', 'all']
    real_images.main([*arguments, *work])
    setting, ceiling = (load_config(run.config) for run in runs)
    assert setting.model.losses.soft is None and setting.train_cfg.max_iters == 600
    assert ceiling.train_dataloader.dataset.unlabeled is None
    assert runs[1].options == ['train_dataloader.dataset.labeled.ann_file=']


@pytest.mark.parametrize('option', ['--iters', '--start-iters'])
def test_custom_configs_say_their_steps_themselves(capsys, option):
    with pytest.raises(SystemExit):
        real_images.main(['--data', 'camvid', '--custom', option, '40'])
    assert f'{option} 40 does not go with --custom' in capsys.readouterr().err


def options(run: Experiment) -> dict[str, Any]:
    return dict(option.split('=', 1) for option in run.options)


def test_other_numbers_of_labels(runs, tmp_path):
    out = tmp_path / 'table.md'
    arguments = ['--data', 'camvid', '--methods', 'unimatch', '--seeds', '1', '--part', 'val']
    real_images.main([*arguments, '--labels', '46', 'all', '--out', str(out)])
    dataset = 'train_dataloader.dataset'
    one, all_images = runs[1], runs[3]
    assert options(one)[f'{dataset}.labeled.ann_file'] == 'splits/46/labeled.txt'
    assert options(one)[f'{dataset}.unlabeled.ann_file'] == 'splits/46/unlabeled.txt'
    prefix = 'test_dataloader.dataset.data_prefix'
    assert all(
        run.test_options
        == [f'{prefix}.img_path=images/val', f'{prefix}.seg_map_path=annotations/val']
        for run in runs
    )
    assert not any(key.startswith('test_') for key in options(one)), 'training is the same'
    assert 'supervised' in all_images.config
    assert options(all_images)[f'{dataset}.labeled.ann_file'] == ''
    assert f'{dataset}.unlabeled.ann_file' not in options(all_images)
    assert all((tmp_path / f'table-{labels}.md').is_file() for labels in ('46', 'all'))


def test_rows_are_compared_with_any_other(runs, capsys):
    arguments = ['--data', 'camvid', '--methods', 'unimatch', 'corrmatch', '--seeds', '0', '1']
    real_images.main([*arguments, '--base', 'unimatch'])
    assert 'above unimatch (± standard error)' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='--base s4mc: no such row is run; name one of unimatch'):
        real_images.main([*arguments, '--base', 's4mc'])


def test_curve_and_pictures(runs, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(real_images, 'draw_tests', lambda *args: shown.append(args))
    arguments = ['--data', 'camvid', '--methods', 'unimatch', 'supervised', '--seeds', '4', '5']
    arguments += ['--labels', '46', 'all', '12', '--work-dir', str(tmp_path), '--part', 'val']
    arguments += [
        '--picture',
        str(tmp_path / 'tests.png'),
        '--curve',
        str(tmp_path / 'new/curve.png'),
    ]
    real_images.main(arguments)
    assert cv2.imread(str(tmp_path / 'new/curve.png')).shape == (480, 720, 3)
    assert [path.name for path, *_ in shown] == [f'tests-{n}.png' for n in ('46', 'all', '12')]
    path, data, rows, images, every = shown[0]
    assert (data.data_prefix.img_path, images, every) == ('images/val', 6, 1)
    assert rows['unimatch, mIoU 54.0'] == tmp_path / 'camvid-46/unimatch/seed4'


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--picture', 'a.jpg'], '--picture must end in .png, got a.jpg'),
        (['--curve', 'a', '--labels', '12', '46'], '--curve must end in .png, got a'),
        (['--curve', 'a.png', '--labels', '12', 'all'], '--curve needs several numbers of labels'),
        (['--out', '/tmp'], '--out /tmp is a folder: name a file in it'),
        (['--out', '/proc/a.md'], '/proc: no file can be written there'),
        (['--picture', '/proc/a/b.png'], '/proc/a: no file can be written there'),
        (['--seeds', '0', '-1'], '--seeds must be a whole number from 0 to 4294967295, got -1'),
        (['--seeds', '4294967296'], '--seeds must be a whole number from 0 to 4294967295'),
    ],
)
def test_options_that_can_not_be(options, said, capsys):
    with pytest.raises(SystemExit):
        real_images.parse_args(['--data', 'camvid', *options])
    assert said in capsys.readouterr().err


def test_rows_of_a_table_that_the_set_lacks_are_named(capsys):
    known = real_images.rows('camvid')
    assert real_images.rows_of_table('Weighting 3', known) == ['mean_teacher']
    said = capsys.readouterr().err
    assert said.startswith('--ablation Weighting 3: left out, this set has no such method: ')
    assert 'weighting_mean_teacher:ppw' in said
    assert real_images.rows_of_table('CorrMatch 5', known) and not capsys.readouterr().err


def test_curve_has_the_figures_of_each_row():
    twelve = dict(supervised=row(40, 42), unimatch=row(44, 46))
    found = real_images.by_row({'12': twelve, '46': dict(supervised=row(50, 51))})
    assert found == dict(supervised={12: [40, 42], 46: [50, 51]}, unimatch={12: [44, 46]})


def test_all_labels_do_not_change_the_rows_of_other_numbers(runs, tmp_path):
    arguments = ['--data', 'camvid', '--methods', 'unimatch', '--seeds', '1', '--part', 'val']
    real_images.main([*arguments, '--labels', 'all', '46', '--work-dir', str(tmp_path)])
    rows = [Path(run.work_dir).parent.name for run in runs if 'start' not in run.work_dir]
    assert rows == ['supervised', 'unimatch']


def test_what_is_not_compared_or_run_is_said(runs, tmp_path, capsys):
    arguments = ['--data', 'camvid', '--methods', 'unimatch', '--seeds', '1', '1']
    real_images.main([*arguments, '--labels', 'all', '12', '--work-dir', str(tmp_path)])
    said = capsys.readouterr()
    assert 'no row is compared with supervised, add it to --methods' in said.err
    assert '--labels all: supervised alone is run, the ceiling' in said.err
    assert 'seeds 1.' in said.out, 'a seed is run once'
    real_images.main(['--data', 'camvid', '--methods', 'supervised', '--seeds', '1'])
    assert not capsys.readouterr().err


def test_a_part_that_is_not_there_is_refused_before_anything_is_run(runs, tmp_path, monkeypatch):
    root = Path(os.environ['CAMVID_ROOT'])
    (root / 'annotations/test').rmdir()
    arguments = ['--data', 'camvid', '--methods', 'corrmatch:no-soft', '--work-dir', str(tmp_path)]
    with pytest.raises(SystemExit, match='--part test: there is no folder .*annotations/test'):
        real_images.main(arguments)
    assert not runs and not list(tmp_path.iterdir()), 'no config of a setting is left'
    real_images.main([*arguments, '--part', 'val'])


def test_results_of_other_lists_are_not_taken(runs, tmp_path, monkeypatch):
    monkeypatch.setenv('CAMVID_ROOT', str(tmp_path))
    make_parts(tmp_path)
    arguments = ['--data', 'camvid', '--methods', 'supervised', '--seeds', '0']
    lists = tmp_path / 'splits/12'
    lists.mkdir(parents=True)
    for name in ('a', 'b'):
        for part in ('labeled', 'unlabeled'):
            (lists / f'{part}.txt').write_text(f'{name}_{part}\n')
        real_images.main([*arguments, '--work-dir', str(tmp_path)])
    hashes = [split_hash([f'{name}_labeled'], [f'{name}_unlabeled']) for name in 'aabb']
    assert [run.split for run in runs] == hashes


def test_a_row_that_is_not_there():
    with pytest.raises(SystemExit, match=r"no such row. Did you mean 'corrmatch'\? Name some of"):
        real_images.main(['--data', 'camvid', '--methods', 'corrmach'])


@pytest.fixture
def camvid(tmp_path, monkeypatch, runs) -> list[list[str]]:
    """Commands that make boxes: the first writes the lists of the images, the last the boxes."""
    made: list[list[str]] = []
    root = tmp_path / 'camvid'
    for labels in ('12', '46'):
        for part in ('labeled', 'unlabeled'):
            path = root / f'splits/{labels}/{part}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{part}_{labels}\n')
    make_parts(root)

    def call(command, log, threads, what):
        made.append(command)
        labels = '46' if '/46/' in ' '.join(command) else '12'
        folder = root / 'detection' / labels
        if Path(command[1]).name == 'masks_to_coco.py':
            parts = {
                p: coco_images({f'{p}_{labels}.png': (4, 3)}) for p in ('labeled', 'unlabeled')
            }
            content = dict(info={}, annotations=[], categories=[])
            write_coco_files(
                {folder / f'{p}.json': dict(content, images=i) for p, i in parts.items()}
            )
        if Path(command[1]).name == 'test.py':
            (folder / 'unlabeled.bbox.json').write_text('[]')
        assert Path(log).name == 'boxes.log' and threads == 1

    monkeypatch.setenv('CAMVID_ROOT', str(root))
    monkeypatch.setattr('mmseg_semi.zoo.boxes.call', call)
    return made


@pytest.mark.skipif(not is_installed('mmdet'), reason='detectors need mmdet')
def test_boxes_are_made_once_for_the_rows_that_read_them(camvid, runs, tmp_path, capsys):
    arguments = ['--data', 'camvid', '--seeds', '0', '--threads', '1']
    arguments += ['--work-dir', str(tmp_path / 'work'), '--methods']
    real_images.main([*arguments, 'unimatch'])
    assert camvid == [] and 'Boxes' not in capsys.readouterr().out
    real_images.main([*arguments, 'weighting_unimatch', 'weighting_ael'])
    assert [Path(command[1]).name for command in camvid] == [
        'masks_to_coco.py',
        'train.py',
        'test.py',
    ]
    detector = str(CONFIGS / 'detection/faster-rcnn_efficientnet-lite0_camvid-12.py')
    assert camvid[1][2] == camvid[2][2] == detector and '--cfg-options' not in camvid[1]
    assert camvid[1][camvid[1].index('--work-dir') + 1].startswith(
        str(tmp_path / 'work/camvid-12/')
    )
    assert Path(camvid[2][3]).name == 'iter_240.pth'
    boxes = tmp_path / 'camvid/detection/12/unlabeled.bbox.json'
    assert f'{boxes}, made in 0.0 minutes.' in capsys.readouterr().out
    camvid.clear()
    real_images.main([*arguments, 'weighting_unimatch'])
    assert camvid == [], 'they are there'
    (tmp_path / 'camvid/splits/12/unlabeled.txt').write_text('another\n')
    real_images.main([*arguments, 'weighting_unimatch'])
    assert len(camvid) == 3, 'they are of other images'
    (tmp_path / 'camvid/splits/12/unlabeled.txt').write_text('unlabeled_12\n')
    real_images.main([*arguments, 'weighting_unimatch'])
    assert len(camvid) == 6, 'they are of the first images again'
    before = camvid[4][camvid[4].index('--work-dir') + 1]
    mask = tmp_path / 'camvid/annotations/train/labeled_12.png'
    mask.parent.mkdir()
    mask.write_bytes(b'another')
    _digest_folders.cache_clear()
    real_images.main([*arguments, 'weighting_unimatch'])
    assert len(camvid) == 9, 'they are of other masks'
    assert camvid[7][camvid[7].index('--work-dir') + 1] != before


@pytest.mark.skipif(not is_installed('mmdet'), reason='detectors need mmdet')
def test_other_numbers_of_labels_have_their_own_boxes(camvid, runs, tmp_path):
    arguments = ['--data', 'camvid', '--methods', 'weighting_unimatch', '--seeds', '0']
    arguments += ['--threads', '1', '--work-dir', str(tmp_path / 'work'), '--labels', '46']
    real_images.main(arguments)
    convert, train, test = camvid
    dataset, folder = 'train_dataloader.dataset', tmp_path / 'camvid/detection/46'
    assert f'{dataset}.labeled.ann_file=splits/46/labeled.txt' in convert
    assert train[train.index('--cfg-options') :] == test[test.index('--cfg-options') :]
    assert train[train.index('--cfg-options') :] == [
        '--cfg-options',
        f'{dataset}.ann_file=detection/46/labeled.json',
        'test_dataloader.dataset.ann_file=detection/46/unlabeled.json',
        f'test_evaluator.ann_file={folder}/unlabeled.json',
        f'test_evaluator.outfile_prefix={folder}/unlabeled',
    ]
    read = {key: options(runs[-1])[f'{dataset}.unlabeled.detections.{key}'] for key in READ}
    assert read == dict(
        results=str(folder / 'unlabeled.bbox.json'), images=str(folder / 'unlabeled.json')
    )


def test_minutes_of_an_interrupted_detector_are_counted(tmp_path, monkeypatch):
    config = CONFIGS / 'weighting/weighting_unimatch_efficientnet-lite0_camvid-12.py'
    made = boxes.Boxes(str(config), 'detector.py', str(tmp_path), '.png')
    clock, outcomes = [0.0], [RuntimeError('killed'), None]

    def call(*args):
        clock[0] += 90
        outcome = outcomes.pop(0)
        if outcome:
            raise outcome

    monkeypatch.setattr(boxes.time, 'time', lambda: clock[0])
    monkeypatch.setattr(boxes, 'call', call)
    monkeypatch.setattr(boxes.Boxes, 'commands', lambda self: [['python', 'train.py', 'x']])
    assert made.said().endswith('unlabeled.bbox.json.')
    with pytest.raises(RuntimeError, match='killed'):
        made.make(1)
    made.make(1)
    assert made.said().endswith('unlabeled.bbox.json, made in 3.0 minutes.')


def test_settings_of_the_papers_are_rows(runs, tmp_path):
    arguments = ['--data', 'camvid', '--seeds', '0', '--work-dir', str(tmp_path)]
    real_images.main([*arguments, '--methods', 'supervised', 'corrmatch:threshold-fixed-0.95'])
    run = runs[-1]
    assert run.work_dir == f'{tmp_path}/camvid-12/corrmatch_threshold-fixed-0.95/seed0'
    found, base = (
        Config.fromfile(path).model
        for path in (run.config, real_images.rows('camvid')['corrmatch'])
    )
    assert found.refiners.select == dict(type='ConfidenceThreshold', threshold=0.95)
    found.refiners.select = base.refiners.select
    assert found == base
    assert 'model.warmup_iters=0' in run.options


def test_a_papers_table(runs, tmp_path):
    arguments = ['--data', 'camvid', '--seeds', '0', '--work-dir', str(tmp_path)]
    real_images.main([*arguments, '--ablation', 'RankMatch 5'])
    rows = [Path(run.work_dir).parent.name for run in runs if 'start' not in run.work_dir]
    assert rows == [f'rankmatch_agents-{n}' for n in ('all', 'random', 'top')] + ['rankmatch']


@pytest.mark.parametrize(
    ('options', 'problem'),
    [
        (['--methods', 'corrmatch:no-sof'], r"no such setting. Did you mean 'no-soft'\? Name one"),
        (['--methods', 'corrmatch:figures'], 'reads files of VOC'),
        (['--methods', 'fixmatch:no-soft'], 'It has none, name it alone'),
        (['--ablation', 'CorrMatch 77'], 'no paper has a table'),
    ],
)
def test_settings_that_are_not_there(options, problem, runs, tmp_path):
    arguments = ['--data', 'camvid', '--work-dir', str(tmp_path), '--seeds', '0', *options]
    with pytest.raises(SystemExit, match=problem):
        real_images.main(arguments)
    assert runs == []


@pytest.mark.parametrize(
    ('options', 'problem'),
    [
        (['--labels', '7'], 'splits/7/labeled.txt does not exist; there are 12, 46 and all'),
        (['--jobs', '0'], "argument --jobs: must be a whole number >= 1, got '0'"),
        (['--iters', '-3'], "argument --iters: must be a whole number >= 1, got '-3'"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_runs(options, problem, runs, capsys):
    with pytest.raises(SystemExit) as refused:
        real_images.main(['--data', 'camvid', *options])
    assert problem in f'{refused.value} {capsys.readouterr().err}' and runs == []


def test_data_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv('LAND_COVER_ROOT', str(tmp_path / 'nothing'))
    with pytest.raises(SystemExit, match='nothing is no folder: .* variable LAND_COVER_ROOT'):
        real_images.main(['--data', 'land-cover'])
