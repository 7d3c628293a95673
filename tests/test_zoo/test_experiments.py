import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_semi.datasets.file_digests import _digest_folders
from mmseg_semi.zoo.commands import TOOLS, call, ending_commands, shown
from mmseg_semi.zoo.experiments import (
    Experiment,
    commits_of,
    mean_and_spread,
    newest_metrics,
    run_experiments,
)


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment whose tools only note how they were called."""
    config = tmp_path / 'config.py'
    config.write_text('a = 1\n')
    made = Experiment(str(config), str(tmp_path / 'work'), seed=3, options=['x=1'])
    calls = []

    def call(step, command):
        calls.append(list(command))
        if step == 'test':
            folder = tmp_path / 'work/test/20260101_000000'
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'x.json').write_text(json.dumps(dict(mIoU=50.5, step=4)))

    made._call, made.calls = call, calls

    def latest(folder):
        trained = any(Path(one[1]).stem.endswith('train') for one in calls)
        return f'{folder}/iter_4.pth' if trained else None

    monkeypatch.setattr('mmseg_semi.zoo.experiments.latest_checkpoint', latest)
    return made


def test_trains_resuming_then_tests_and_keeps_the_result(experiment, tmp_path):
    assert experiment.result() is None
    metrics = experiment.run()
    assert metrics['mIoU'] == 50.5 and 'step' not in metrics and metrics['train_minutes'] >= 0
    train, test = experiment.calls
    assert train[:3] == [sys.executable, str(TOOLS / 'train.py'), experiment.config]
    assert '--resume' in train and train[-2:] == ['--cfg-options', 'x=1']
    assert train[train.index('--seed') + 1] == '3'
    assert test[1] == str(TOOLS / 'test.py') and test[3].endswith('work/iter_4.pth')
    assert test[-1] == 'x=1' and '--out' in test
    assert experiment.run() == metrics and len(experiment.calls) == 2, 'not run again'


def test_the_best_checkpoint_is_tested_where_it_is_asked_for(experiment, tmp_path):
    experiment.best = True
    with pytest.raises(RuntimeError, match='work has no checkpoint after training'):
        experiment.run()
    for age, step in ((10, 300), (5, 200)):  # the older one was left by a killed run
        path = tmp_path / f'work/best_mIoU_iter_{step}.pth'
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    experiment.run()
    assert experiment.calls[-1][3].endswith('work/best_mIoU_iter_200.pth')


def test_minutes_of_a_resumed_run_are_those_of_all_its_steps(experiment, tmp_path):
    logs = tmp_path / 'work/20260101_000000/vis_data'
    logs.mkdir(parents=True)
    lines = [dict(step=step, loss=1.0, time=3.0) for step in (50, 100)]
    (logs / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    assert experiment.run()['train_minutes'] == 5.0


def test_training_that_leaves_no_checkpoint(experiment, monkeypatch):
    monkeypatch.setattr('mmseg_semi.zoo.experiments.latest_checkpoint', lambda folder: None)
    with pytest.raises(RuntimeError, match=r'work has no checkpoint after training .*config\.py'):
        experiment.run()
    assert len(experiment.calls) == 1


def test_a_result_of_other_settings_does_not_count(experiment, tmp_path):
    experiment.run()
    (tmp_path / 'config.py').write_text('a = 2\n')
    assert experiment.result() is None
    (tmp_path / 'config.py').write_text('a = 1\n')
    assert experiment.result() is not None
    experiment.seed = 4
    assert experiment.result() is None
    experiment.seed, experiment.train_args = 3, ['--amp']
    assert experiment.result() is None


def test_a_result_of_another_base_config_does_not_count(experiment, tmp_path):
    (tmp_path / 'base.py').write_text('b = 1\n')
    (tmp_path / 'config.py').write_text("_base_ = './base.py'\n")
    experiment.run()
    assert experiment.result() is not None
    (tmp_path / 'base.py').write_text('b = 2\n')
    assert experiment.result() is None


@pytest.mark.parametrize(
    'change',
    [
        dict(options=['x=2']),
        dict(train_args=['--amp']),
        dict(processes=4),
        dict(seed=4),
        dict(split='0123456789ab'),
    ],
)
def test_checkpoints_of_other_settings_are_not_taken_up(experiment, change):
    experiment.run()
    calls = len(experiment.calls)
    for name, value in change.items():
        setattr(experiment, name, value)
    (key,) = change
    key = 'options: before x=1, now x=2' if key == 'options' else key
    with pytest.raises(RuntimeError, match=rf'other settings \({key}\).*another work folder'):
        experiment.run()
    assert len(experiment.calls) == calls and experiment.result() is None
    experiment.calls.clear()  # as if the folder had no checkpoint
    assert experiment.run()['mIoU'] == 50.5


def test_a_result_of_other_images_or_masks_does_not_count(experiment, tmp_path):
    prefix = dict(img_path='images', seg_map_path='masks')
    data = dict(data_root=str(tmp_path / 'here'), data_prefix=prefix)
    Path(experiment.config).write_text(f'train_dataloader = dict(dataset=[{data!r}])\n')
    for kind in prefix.values():
        (tmp_path / 'here' / kind / 'below').mkdir(parents=True)
        (tmp_path / 'here' / kind / 'below/a.png').write_bytes(kind.encode() * 9)
    (tmp_path / 'here/list.txt').write_text('a\n')
    experiment.run()
    (tmp_path / 'here/list.txt').write_text('b\n')  # of which the split is told

    def again():
        _digest_folders.cache_clear()
        return experiment.result() is not None

    assert again()
    shutil.copytree(tmp_path / 'here', tmp_path / 'there')
    text = Path(experiment.config).read_text()
    Path(experiment.config).write_text(text.replace('/here', '/there'))
    assert again(), 'where they are does not count'
    for kind in prefix.values():
        file = tmp_path / 'there' / kind / 'below/a.png'
        file.write_bytes(kind.upper().encode() * 9)
        assert not again()
        with pytest.raises(RuntimeError, match=r'\(data: other files of images or masks\)'):
            experiment.run()
        file.write_bytes(kind.encode() * 9)
        assert again()
    file.rename(file.with_name('b.png'))
    assert not again()


def test_another_test_of_a_training_does_not_train_anew(experiment):
    experiment.run()
    experiment.test_options = ['part=val']
    assert experiment.result() is None and experiment.conflict() is None
    experiment.calls.clear()
    experiment.run()
    train, test = experiment.calls
    assert '--resume' in train and train[-1] == 'x=1', 'what is finished goes on to its end'
    assert test[-3:] == ['--cfg-options', 'x=1', 'part=val']
    assert experiment.result() is not None
    experiment.test_options = []
    assert experiment.result() is None


def test_a_run_notes_its_commits(experiment, tmp_path, monkeypatch):
    at = iter(['one', 'one', 'two', 'two'])
    monkeypatch.setattr('mmseg_semi.zoo.experiments.checkout_commit', lambda: next(at))
    other = Experiment(experiment.config, str(tmp_path / 'other'))
    assert commits_of([experiment, other]) == 'Commit not noted'
    experiment.run()
    assert commits_of([experiment, other]) == 'Commit one'
    experiment.test_options = ['part=val']
    experiment.run()
    assert commits_of([experiment, other]) == 'Commits one, two'
    other.result_path.parent.mkdir()
    earlier = dict(settings=other.settings(), metrics=dict(mIoU=1.0))
    other.result_path.write_text(json.dumps(earlier))
    assert commits_of([experiment, other]) == 'Commits one, two, not noted'
    other.result_path.write_text(json.dumps(dict(earlier, settings={})))
    assert commits_of([experiment, other]) == 'Commits one, two', 'that is of another run'


def test_commits_of_before_they_were_noted_stay_unknown(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr('mmseg_semi.zoo.experiments.checkout_commit', lambda: 'new')
    experiment.run()
    (tmp_path / 'work/settings.json').write_text(json.dumps(experiment.settings()))
    experiment.test_options = ['part=val']
    experiment.run()
    assert commits_of([experiment]) == 'Commits not noted, new'


def test_settings_stay_those_that_a_training_was_begun_with(experiment, tmp_path):
    experiment.run()
    call = experiment._call

    def edited(step, command):
        (tmp_path / 'config.py').write_text('a = 2\n')
        call(step, command)

    experiment._call, experiment.test_options = edited, ['part=val']
    experiment.run()
    experiment._call = call
    experiment.result_path.unlink()
    with pytest.raises(RuntimeError, match=r'other settings \(config_text\)'):
        experiment.run()


def test_another_test_keeps_the_minutes_of_the_training(experiment):
    experiment.run()
    kept = json.loads(experiment.result_path.read_text())
    kept['metrics']['train_minutes'] = 7.5
    experiment.result_path.write_text(json.dumps(kept))
    experiment.test_options = ['part=val']
    assert experiment.run()['train_minutes'] == 7.5


@pytest.mark.parametrize('text', ['', '{"settings": {', '[]', '{"metrics": {"mIoU": 1}}'])
def test_a_broken_result_is_tested_anew(experiment, text):
    experiment.run()
    experiment.result_path.write_text(text)
    assert experiment.result() is None
    assert experiment.run()['mIoU'] == 50.5


def test_broken_settings_are_refused_beside_checkpoints(experiment, tmp_path):
    experiment.run()
    experiment.result_path.unlink()
    (tmp_path / 'work/settings.json').write_text('{"con')
    with pytest.raises(RuntimeError, match=r'other settings \(.*options: before none, now x=1'):
        experiment.run()


def test_sigterm_ends_the_command_that_runs(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(
        'import pathlib, signal, sys, time\n'
        'def end(*_):\n'
        '    pathlib.Path("ended").touch()\n'
        '    sys.exit(143)\n'
        'signal.signal(signal.SIGTERM, end)\n'
        'pathlib.Path("begun").touch()\n'
        'time.sleep(60)\n'
    )
    parent = tmp_path / 'parent.py'
    parent.write_text(
        'import sys\n'
        'from mmseg_semi.zoo.commands import call\n'
        'from mmseg_semi.zoo.experiments import Experiment, run_experiments\n'
        'class Run(Experiment):\n'
        '    def run(self):\n'
        '        call([sys.executable, "child.py"], "log/x.log", 1, "x")\n'
        'run_experiments([Run("c.py", "w"), Run("c.py", "w2")])\n'
    )
    command = [sys.executable, str(parent)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / 'begun').exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    (tmp_path / 'begun').unlink()
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and 'give the command again to go on' in said
    assert (tmp_path / 'ended').exists()
    assert not (tmp_path / 'begun').exists(), 'the next one is not begun'


def test_sigterm_begins_no_other_command(tmp_path):
    with pytest.raises(SystemExit) as ended, ending_commands():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            with pytest.raises(RuntimeError, match='SIGTERM came before python -c'):
                call([sys.executable, '-c', ''], str(tmp_path / 'x.log'), 1, 'x')
    assert ended.value.code == 143
    call([sys.executable, '-c', ''], str(tmp_path / 'x.log'), 1, 'x')


def test_where_data_and_checkout_are_does_not_count(tmp_path, monkeypatch):
    config = tmp_path / 'config.py'
    config.write_text(
        "a = dict(data_root='{{$SOME_ROOT:data/x}}', other='{{$SOME_ROOT:data/x}}/y')\n"
    )
    made = Experiment(str(config), str(tmp_path / 'work'))
    first = made.settings()
    monkeypatch.setenv('SOME_ROOT', '/elsewhere/x')
    assert made.settings() == first
    config.write_text("a = dict(data_root='data/x', other='data/z')\n")
    assert made.settings() != first
    inside = Experiment(str(TOOLS.parent / 'configs' / 'x.py'), 'w')
    inside_path = inside.config
    monkeypatch.setattr('mmseg_semi.zoo.experiments.Config.fromfile', lambda path: Config())
    assert inside.settings()['config'] == 'configs/x.py' != inside_path


def test_where_written_configs_and_files_of_the_data_are_does_not_count(tmp_path):
    def run_in(folder, data):
        config = folder / 'configs/unimatch_ppw.py'
        config.parent.mkdir(parents=True)
        config.write_text(f'a = dict(data_root={data!r})\n')
        where = str(folder / 'camvid-12/unimatch_ppw/seed0')
        return Experiment(str(config), where, options=[f'boxes={data}/detection/23/boxes.json'])

    first, moved = run_in(tmp_path / 'here', '/data/x'), run_in(tmp_path / 'there', 'y')
    assert first.settings() == moved.settings()
    assert first.settings()['config'] == 'unimatch_ppw.py'
    # A result that names these folders, as earlier ones do, counts as well.
    kept = dict(first.settings(), config=first.config, options=first.options)
    assert '/data/x/detection' in kept['options'][0]
    first.result_path.parent.mkdir(parents=True)
    first.result_path.write_text(json.dumps(dict(settings=kept, metrics=dict(mIoU=1.0))))
    assert first.result() == dict(mIoU=1.0)


def test_where_the_folder_of_all_runs_is_does_not_count(tmp_path):
    (tmp_path / 'config.py').write_text('a = 1\n')

    def run_in(folder, start='start'):
        load = f'load_from={folder / start / "seed0/iter_5.pth"}'
        where = str(folder / 'unimatch/seed0')
        return Experiment(str(tmp_path / 'config.py'), where, options=['b=1', load])

    first, moved = run_in(tmp_path / 'here'), run_in(tmp_path / 'there')
    assert first.settings() == moved.settings()
    assert first.settings()['options'] == ['b=1', 'load_from=../../start/seed0/iter_5.pth']
    assert first.settings() != run_in(tmp_path / 'here', 'other').settings()
    # A result that names the folder, as earlier ones do, counts as well.
    kept = dict(first.settings(), options=first.options)
    first.result_path.parent.mkdir(parents=True)
    first.result_path.write_text(json.dumps(dict(settings=kept, metrics=dict(mIoU=9.0))))
    assert first.result() == dict(mIoU=9.0)


def test_several_processes_are_those_of_the_distributed_scripts(experiment):
    experiment.processes, experiment.keep_predictions = 4, False
    experiment.train_args = ['--amp']
    train, test = experiment.train_command(), experiment.test_command('x.pth')
    assert train[:4] == ['bash', str(TOOLS / 'dist_train.sh'), experiment.config, '4']
    assert '--amp' in train and '--amp' not in test and '--out' not in test
    assert test[:5] == ['bash', str(TOOLS / 'dist_test.sh'), experiment.config, 'x.pth', '4']
    assert shown(train).startswith(f'bash tools/dist_train.sh {experiment.config} 4 --work-dir')
    experiment.processes = 1
    assert shown(experiment.train_command()).startswith('python tools/train.py ')


def test_experiments_run_in_their_order_and_are_reported(experiment):
    seen = []
    other = Experiment(experiment.config, experiment.work_dir + '2', seed=1)
    other.run = lambda: dict(mIoU=1.0)
    found = run_experiments([other, experiment], 2, lambda one, metrics: seen.append(one.seed))
    assert [metrics['mIoU'] for metrics in found] == [1.0, 50.5] and sorted(seen) == [1, 3]


def test_mean_and_spread():
    assert mean_and_spread([1.0, 2.0, 4.0]) == '2.33 ± 1.53' and mean_and_spread([2.0]) == '2.00'


def test_a_failing_tool_is_an_error_with_the_log(tmp_path):
    made = Experiment(str(tmp_path / 'missing.py'), str(tmp_path / 'work'))
    (tmp_path / 'work').mkdir()
    with pytest.raises(RuntimeError, match=r'(?s)train\.log.*missing\.py does not exist'):
        made._call('train', made.train_command())


def test_newest_metrics(tmp_path):
    with pytest.raises(FileNotFoundError, match='no metrics'):
        newest_metrics(str(tmp_path))
