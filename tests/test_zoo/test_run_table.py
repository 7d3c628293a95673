"""Running the tables of the papers: what is run, in which order, and what is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tool_runs import CONFIGS, REPO, TOOLS

from mmseg_semi.detection.coco import coco_images, write_coco_files
from mmseg_semi.zoo import run_table as tool
from mmseg_semi.zoo.experiments import Experiment
from mmseg_semi.zoo.paper_tables import find_paper_table, find_table, load_methods

METHODS = load_methods(CONFIGS)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Function that calls the tool in an empty folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*args: Any) -> str:
        monkeypatch.setattr('sys.argv', ['run_table.py', *map(str, args)])
        tool.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have been run; tests leave mIoU 60 + seed + number of labels / 100."""
    made: list[list[str]] = []

    def step(experiment: Experiment, name: str, command: Sequence[str]) -> None:
        made.append([name, Path(experiment.config).stem, str(experiment.seed)])
        if name == 'test':
            labels = int(re.search(r'-(\d+)(?:_|$)', Path(experiment.config).stem).group(1))
            folder = Path(experiment.work_dir, 'test', '20260101_000000')
            folder.mkdir(parents=True)
            metrics = dict(mIoU=60.0 + experiment.seed + labels / 100)
            (folder / 'x.json').write_text(json.dumps(metrics))

    def box_step(command: Sequence[str], log: str, threads: int | None, what: str) -> None:
        made.append(['boxes', Path(command[1]).name, Path(command[2]).stem])

    monkeypatch.setattr(Experiment, '_call', step)
    monkeypatch.setattr('mmseg_semi.zoo.boxes.call', box_step)
    monkeypatch.setattr(
        'mmseg_semi.zoo.experiments.latest_checkpoint', lambda folder: f'{folder}/iter_4.pth'
    )
    return made


def make_splits(tmp_path: Path, *names: str) -> None:
    folder = tmp_path / 'data/VOCdevkit/VOC2012/ImageSets/Segmentation/semi'
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / 'labeled.txt').write_text('2007_000032\n')


# ------------------------------------------------------------------------------------------- plan
@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('--only', '(', '--only (: this is no regular expression'),
        ('--gpus', -2, '--gpus: must be a whole number >= 1'),
        ('--jobs', 0, '--jobs: must be a whole number >= 1'),
        ('--threads', 0, '--threads: must be a whole number >= 1'),
    ],
)
def test_options_that_can_not_be(run, capsys, option, value, message):
    with pytest.raises(SystemExit):
        run('rankmatch/table-1', option, value)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('option', [('--seeds', -1), ('--seeds', 2**32), ('--out', '/proc/a.md')])
def test_seeds_and_files_that_can_not_be_are_refused_before_any_run(run, capsys, option):
    with pytest.raises(SystemExit):
        run('rankmatch/table-1', *option)
    said = capsys.readouterr().err
    assert 'must be a whole number from 0' in said or 'no file can be written there' in said


def test_a_dry_run_prints_every_command_of_rankmatchs_table_1(run, calls, tmp_path):
    text = run('rankmatch/table-1', '--dry-run')
    assert '# 10 configs, 3 seeds: 30 runs, 30 left; 0 detectors to train first' in text
    train = re.findall(r'^bash tools/dist_train.sh configs/rankmatch/(\S+).py 4 (.*)$', text, re.M)
    assert len(train) == 30
    assert {name for name, _ in train} == {
        f'rankmatch_deeplabv3plus_{depth}_voc12-{split}'
        for depth in ('r50', 'r101')
        for split in (92, 183, 366, 732, 1464)
    }
    name, rest = train[0]
    assert f'{name}/seed0/iter_104960.pth 4' in text, '80 passes of 10490 images, 8 at a time'
    assert rest == f'--work-dir work_dirs/tables/{name}/seed0 --seed 0 --resume'
    assert len(re.findall(r'^bash tools/dist_test.sh \S+ \S+/iter_\d+.pth 4 ', text, re.M)) == 30
    missing = re.findall(r'^# missing: \S+/semi/(\d+)/labeled.txt \((\S+) imports it\)', text, re.M)
    assert [split for split, _ in missing] == ['92', '183', '366', '732', '1464']
    assert {by for _, by in missing} == {'tools/dataset_converters/import_splits.py'}
    assert calls == [] and list(tmp_path.iterdir()) == [], 'runs and writes nothing'


def test_a_dry_run_of_unimatch_v2s_table_2(run, calls):
    text = run('--table', 'UniMatch V2 2', '--dry-run', '--seeds', 0)
    train = re.findall(r'^bash tools/dist_train.sh \S+/unimatch_v2_(\S+).py 4 ', text, re.M)
    splits = (186, 372, 744, 1488)
    assert train == [f'dinov2-{size}_cityscapes-{split}' for size in 'sbl' for split in splits]
    assert '#   186: configs/unimatch_v2/unimatch_v2_dinov2-b_cityscapes-186.py, paper 83.6' in text
    assert calls == []


def test_as_many_processes_as_the_batch_is_for():
    rows = {row.stem: row for method in METHODS.values() for row in method.rows}
    own = {
        'unimatch_deeplabv3plus_r101_voc12-92': 4,
        'corrmatch_deeplabv3plus_r101_voc12-92': 4,
        's4mc_deeplabv3plus_r101_voc12-92': 1,
        'u2pl_deeplabv3plus_r101_cityscapes-u2pl-186': 8,
        'ael_deeplabv3plus_r101_cityscapes-u2pl-186': 8,
        'supervised_deeplabv3plus_r101_cityscapes-186': 4,
        'unimatch_unet_digit-scenes-60': 1,
    }
    assert {stem: tool.own_gpus(rows[stem]) for stem in own} == own


def test_options_reach_the_commands(run):
    options = ['--gpus', 1, '--amp', '--auto-scale-lr', '--seeds', 5]
    options += ['--cfg-options', 'optim_wrapper.accumulative_counts=4']
    text = run('unimatch/cityscapes', '--only', 'r50.*-100$', '--dry-run', *options)
    (train,) = re.findall(r'^python tools/train.py .*$', text, re.M)
    assert '--seed 5 --resume --amp --auto-scale-lr --cfg-options optim_wrapper.acc' in train
    (test,) = re.findall(r'^python tools/test.py .*$', text, re.M)
    assert test.endswith('--cfg-options optim_wrapper.accumulative_counts=4')
    assert 'iter_LAST.pth' in test


def test_all_tables_are_listed(run):
    text = run('--list')
    assert len(text.splitlines()) == sum(len(method.all_tables) for method in METHODS.values())
    assert re.search(r'^rankmatch/table-1 +10 rows  Pascal VOC 2012, classic splits', text, re.M)


def test_unknown_tables_and_rows_are_refused_with_those_that_there_are(run):
    with pytest.raises(SystemExit, match=r"(?s)no table 'rankmatch'.*rankmatch/table-1: Pascal"):
        run('rankmatch')
    with pytest.raises(SystemExit, match='--only r18: fits no row. There are: rankmatch_deep'):
        run('rankmatch/table-1', '--only', 'r18')
    with pytest.raises(SystemExit):
        run()


def test_missing_splits_stop_everything_before_it_begins(run, calls, tmp_path):
    make_splits(tmp_path, '92')
    with pytest.raises(SystemExit, match=r'(?s)nothing was run.*semi/183/labeled.txt \(tools'):
        run('rankmatch/table-1', '--only', '12-(92|183)$')
    assert calls == []


@pytest.mark.parametrize(
    ('name', 'crops'),
    [
        ('rankmatch/table-1', {'supervised': {513}, 'unimatch': {513}}),
        ('unimatch/voc12-classic', {'supervised': {321}, 'fixmatch': {321}}),
        ('corrmatch/voc12-blender', {'unimatch': {321, 513}}),
        # FixMatch has no other.
        ('s4mc/voc12-classic', {'cutmix_seg': {513}, 'fixmatch': {321}}),
    ],
)
def test_baselines_have_networks_splits_and_if_they_can_crops_of_the_table(name, crops):
    table = find_table(METHODS, name)
    rows = tool.baseline_rows(METHODS, table)
    found = {}
    for row in rows:
        found.setdefault(row.method, set()).add(tool.crop_of(row.config))
    assert found == crops
    places = {(row.dataset, row.split, row.model) for row in table.rows}
    assert {(row.dataset, row.split, row.model) for row in rows} <= places
    assert len({row.stem for row in rows}) == len(rows)
    if name == 'rankmatch/table-1':
        assert len(rows) == 20


def test_a_papers_table_is_planned_by_its_number(run, calls, tmp_path):
    text = run('--table', 'CorrMatch 5', '--dry-run', '--seeds', 0, 1)
    heading, *rows = re.findall(r'^# (?:  )?(.*)$', text, re.M)[:19]
    assert heading == (
        'corrmatch/table-5 (Table 5): threshold, hard and soft loss, label propagation; seeds '
        '[0, 1]'
    )
    folder = 'configs/corrmatch/ablations/corrmatch_deeplabv3plus_r101_voc12-'
    assert rows[0] == f'dynamic + hard, 92: {folder}92_hard.py, paper 73.6'
    whole = 'configs/corrmatch/corrmatch_deeplabv3plus_r101_voc12-1464.py'
    assert f'dynamic + hard + soft + propagation, 1464: {whole}, paper 81.8' in rows
    assert '# 18 configs, 2 seeds: 36 runs, 36 left; 0 detectors to train first' in text
    assert f'{folder}92_hard.py 4 --work-dir' in text
    assert calls == [] and list(tmp_path.iterdir()) == [], 'runs and writes nothing'


@pytest.mark.parametrize(
    ('name', 'tables'),
    [
        ('corrmatch table 5', ['corrmatch/table-5']),
        ('Weighting 1', ['weighting/voc12-classic', 'weighting/voc12-blender']),
        ('Weighting Pseudo-Labels Supplementary Table 4', ['weighting/supplementary-table-4']),
        ('weighting S4', ['weighting/supplementary-table-4']),
        ('S4MC 4a', ['s4mc/table-4a']),
        ('CorrMatch Figure 5d', ['corrmatch/figure-5d']),
        ('RankMatch 9', ['rankmatch/lucchi', 'rankmatch/table-9']),
    ],
)
def test_a_papers_table_has_several_spellings(name, tables):
    assert [table.full_name for table in find_paper_table(METHODS, name)] == tables


def test_unknown_tables_of_a_paper_are_refused_with_those_that_there_are(run):
    with pytest.raises(SystemExit, match=r"(?s)table 'CorrMatch 1'.*  CorrMatch: Table 2, Table 3"):
        run('--table', 'CorrMatch 1')
    with pytest.raises(SystemExit, match=r'(?s)figure-3 has a config:\n  Euclidean .*does not say'):
        run('--table', 'Weighting Supplementary Figure 3')


def test_ablations_without_a_detector_need_no_boxes(run):
    args = ['--table', 'Weighting 3', '--seeds', 0, '--dry-run', '--only']
    assert '1 detectors to train first' in run(*args, 'weighting_mean_teacher.*-92$')
    assert '# 1 configs, 1 seeds: 1 runs, 1 left; 0 detectors' in run(*args, '12-92_ppw$')


def test_rows_are_counted_with_and_without_a_config(run):
    text = run('--count')
    rows = {
        name: [int(cell) for cell in cells.split(' | ')]
        for name, cells in re.findall(r'^\| ([^|]+) \| ([\d |]+) \|$', text, re.M)
    }
    assert set(rows) == {method.name for method in METHODS.values()} | {'all'}
    # Rows of tables with a config, with the paper's figure, without a config; of ablations.
    assert rows['CorrMatch'] == [18, 18, 0, 48, 0, 72]
    assert rows['RankMatch'] == [30, 27, 0, 23, 3, 15]
    assert rows['Weighting Pseudo-Labels'] == [112, 108, 0, 35, 2, 31]
    assert rows['all'] == [sum(column) for column in zip(*list(rows.values())[:-1])]
    assert rows['all'][3] + rows['all'][4] == 151
    assert 'rankmatch: table-9: CPS: CPS is not built' in text


# ------------------------------------------------------------------------------------------- runs
def test_runs_are_made_once_and_the_table_has_mean_and_spread(run, calls, tmp_path):
    make_splits(tmp_path, '92', '183')
    args = ['rankmatch/table-1', '--only', 'r50.*-(92|183)$', '--out', 'table.md']
    text = run(*args, '--seeds', 0, 1)
    short = 'rankmatch_deeplabv3plus_r50_voc12-'
    assert calls == [
        [step, f'{short}{labels}', str(seed)]
        for seed in (0, 1)
        for labels in (92, 183)
        for step in ('train', 'test')
    ]
    row = f'| {short}92 | 513 | 92 + 10490 | 71.6 | 61.42 ± 0.71 | 0: 60.92, 1: 61.92 |'
    assert row in text and row in Path('table.md').read_text()
    assert 'seeds [0, 1], as many GPUs as the configs are for.' in text
    assert f'{short}183 seed 1: mIoU 62.83' in text
    calls.clear()
    text = run(*args, '--seeds', 0, 1, 2)
    assert {call[2] for call in calls} == {'2'}, 'only the new seed'
    assert f'| {short}183 | 513 | 183 + 10399 | 74.6 | 62.83 ± 1.00 |' in text
    assert ': finished, mIoU 60.92' in run(*args, '--seeds', 0, '--dry-run')


def test_a_result_of_another_split_is_not_taken(run, calls, tmp_path):
    make_splits(tmp_path, '92')
    lists = tmp_path / 'data/VOCdevkit/VOC2012/ImageSets/Segmentation/semi/92'
    (lists / 'unlabeled.txt').write_text('2007_000039\n')
    args = ['rankmatch/table-1', '--only', 'r50.*-92$', '--seeds', 0]
    assert 'finished, mIoU 60.92' in run(*args) + run(*args, '--dry-run')
    (lists / 'unlabeled.txt').write_text('2007_000063\n')
    plan = run(*args, '--dry-run')
    assert 'finished' not in plan and re.search(r'# refused: .*other settings \(split\)', plan)
    calls.clear()
    make_splits(tmp_path, '183')
    wider = [*args[:2], 'r50.*-(183|92)$', *args[3:]]
    with pytest.raises(SystemExit, match=r'nothing was run:\n .*other settings \(split\)'):
        run(*wider)
    assert calls == [], 'also not the rows before it'


def test_a_failing_run_keeps_what_is_finished(run, calls, tmp_path, monkeypatch):
    make_splits(tmp_path, '92', '183')
    step = Experiment._call

    def failing(experiment: Experiment, name: str, command: Sequence[str]) -> None:
        if '183' in experiment.config:
            raise RuntimeError('train.py failed, see train.log')
        step(experiment, name, command)

    monkeypatch.setattr(Experiment, '_call', failing)
    args = ['rankmatch/table-1', '--only', 'r50.*-(92|183)$', '--out', 'table.md', '--seeds', 0]
    with pytest.raises(SystemExit, match='see train.log\nFinished runs are kept'):
        run(*args)
    assert '| 71.6 | 60.92 | 0: 60.92 |' in Path('table.md').read_text()
    monkeypatch.setattr(Experiment, '_call', step)
    calls.clear()
    run(*args)
    assert {call[1] for call in calls} == {'rankmatch_deeplabv3plus_r50_voc12-183'}


def test_boxes_are_made_first_once_for_all_frameworks_and_only_when_missing(run, calls, tmp_path):
    make_splits(tmp_path, '92')
    args = ['weighting/voc12-classic', '--only', '(unimatch|u2pl).*r101.*-92$', '--seeds', 0]
    run(*args)
    detector = 'faster-rcnn_r50_fpn_voc12-92'
    assert [call for call in calls if call[0] == 'boxes'] == [
        ['boxes', 'masks_to_coco.py', 'weighting_u2pl_deeplabv3plus_r101_voc12-92'],
        ['boxes', 'train.py', detector],
        ['boxes', 'test.py', detector],
    ]
    assert calls[3] == ['train', 'weighting_unimatch_deeplabv3plus_r101_voc12-92', '0']
    text = run(*args, '--dry-run')
    assert f'{detector}/iter_3000.pth' in text, 'the last checkpoint of the detector'
    boxes = tmp_path / 'data/VOCdevkit/VOC2012/detection/92/unlabeled.bbox.json'
    boxes.parent.mkdir(parents=True)
    boxes.write_text('[]')
    assert '0 detectors to train first' in run(*args, '--dry-run')


def test_boxes_of_other_images_are_made_anew_by_another_detector(run, tmp_path):
    args = ['weighting/voc12-classic', '--only', 'unimatch.*-92$', '--seeds', 0, '--dry-run']
    make_splits(tmp_path, '92')
    lists = tmp_path / 'data/VOCdevkit/VOC2012/ImageSets/Segmentation/semi/92'
    (lists / 'unlabeled.txt').write_text('2007_000039\n2007_000063\n')
    folder = tmp_path / 'data/VOCdevkit/VOC2012/detection/92'
    folder.mkdir(parents=True)
    (folder / 'unlabeled.bbox.json').write_text('[]')

    def images(part: str, *names: str) -> None:
        sizes = {f'{name}.jpg': (4, 3) for name in names}
        content = dict(info={}, images=coco_images(sizes), annotations=[], categories=[])
        write_coco_files({folder / f'{part}.json': content})

    assert '1 detectors to train first' in run(*args), 'nothing says what they are of'
    images('labeled', '2007_000032')
    images('unlabeled', '2007_000063', '2007_000039')
    assert '0 detectors to train first' in run(*args)
    images('unlabeled', '2007_000063', '2007_000068')
    first = run(*args)
    assert '1 detectors to train first' in first
    (lists / 'unlabeled.txt').write_text('2007_000039\n')
    second = run(*args)
    folders = [
        re.findall(r'--work-dir (\S+faster-rcnn\S+?)(?:/test)?$', t, re.M) for t in (first, second)
    ]
    assert len(set(folders[0])) == len(set(folders[1])) == 1 and folders[0] != folders[1]


def test_every_weighting_row_has_a_detector_and_every_row_a_remedy():
    args = type('Args', (), dict(work_dir='w', gpus=None))()
    splits = {(row.dataset, row.split): row for row in METHODS['weighting'].rows}
    for row in splits.values():
        boxes = tool.boxes_of(row, args)
        commands = boxes.commands()
        assert boxes.path.name == 'unlabeled.bbox.json' and len(commands) == 3
        assert '--cfg-options' not in commands[1], 'the files that the config names'
        assert all(Path(command[1]).is_file() for command in commands)
        assert Path(commands[1][2]).is_file(), row
    for row in (row for method in METHODS.values() for row in method.rows):
        (named,) = re.findall(r'tools/dataset_converters/(\w+\.py)', tool.remedy(row))
        assert (TOOLS / 'dataset_converters' / named).is_file()


def test_a_wheel_needs_no_repository(plain_server, tmp_path):
    """Its configs and tools lie in the package; paths are not those of a repository."""
    site = tmp_path / 'site'
    shutil.copytree(REPO / 'mmseg_semi', site / 'mmseg_semi', ignore=shutil.ignore_patterns('.mim'))
    shipped = site / 'mmseg_semi' / '.mim'
    shipped.mkdir()
    for name in ('configs', 'tools', 'model-index.yml'):
        (shipped / name).symlink_to(REPO / name)
    run_table = shipped / 'tools' / 'benchmarks' / 'run_table.py'
    script = tmp_path / 'script.py'
    script.write_text(
        'from mmseg_semi.utils.collect_env import checkout_commit; print(checkout_commit())'
    )
    installed = dict(cwd=tmp_path, unblock=['mmseg_semi'], paths=[site])
    args = (
        'supervised/voc12-classic',
        '--only',
        'r50.*-92$',
        '--seeds',
        0,
        '--gpus',
        1,
        '--dry-run',
    )
    output = plain_server.run(run_table, *args, **installed).output
    config = shipped / 'configs/supervised/supervised_deeplabv3plus_r50_voc12-92.py'
    assert f'python {shipped}/tools/train.py {config} --work-dir' in output
    assert 'of version' in plain_server.run(script, **installed).output
