import json

import pytest

from mmseg_semi.utils.experiments import Experiment, newest_metrics


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment whose tools only note how they were called."""
    config = tmp_path / 'config.py'
    config.write_text('a = 1\n')
    made = Experiment(str(config), str(tmp_path / 'work'), seed=3, options=['x=1'])
    calls = []

    def call(tool, arguments, options):
        calls.append([tool, *map(str, arguments), *options])
        if tool == 'test.py':
            folder = tmp_path / 'work/test/20260101_000000'
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'x.json').write_text(json.dumps(dict(mIoU=50.5, step=4)))

    made._call, made.calls = call, calls
    monkeypatch.setattr(
        'mmseg_semi.utils.experiments.latest_checkpoint', lambda folder: f'{folder}/iter_4.pth'
    )
    return made


def test_trains_resuming_then_tests_and_keeps_the_result(experiment, tmp_path):
    assert experiment.result() is None
    metrics = experiment.run()
    assert metrics['mIoU'] == 50.5 and 'step' not in metrics and metrics['train_minutes'] >= 0
    train, test = experiment.calls
    assert train[0] == 'train.py' and '--resume' in train and train[-2:] == ['--cfg-options', 'x=1']
    assert train[train.index('--seed') + 1] == '3'
    assert test[0] == 'test.py' and test[2].endswith('work/iter_4.pth') and test[-1] == 'x=1'
    assert experiment.run() == metrics and len(experiment.calls) == 2, 'not run again'


def test_a_result_of_other_settings_does_not_count(experiment, tmp_path):
    experiment.run()
    (tmp_path / 'config.py').write_text('a = 2\n')
    assert experiment.result() is None
    (tmp_path / 'config.py').write_text('a = 1\n')
    assert experiment.result() is not None
    experiment.seed = 4
    assert experiment.result() is None


def test_a_failing_tool_is_an_error_with_the_log(tmp_path):
    made = Experiment(str(tmp_path / 'missing.py'), str(tmp_path / 'work'))
    (tmp_path / 'work').mkdir()
    with pytest.raises(RuntimeError, match=r'(?s)train\.log.*missing\.py does not exist'):
        made._call('train.py', [made.config], [])


def test_newest_metrics(tmp_path):
    with pytest.raises(FileNotFoundError, match='no metrics'):
        newest_metrics(str(tmp_path))
