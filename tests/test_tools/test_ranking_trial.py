"""The trial of ranked against random labels: which lists are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tool_runs import load_tool

from mmseg_semi.zoo.experiments import Experiment

tool = load_tool('benchmarks/ranking.py')
LABELED, UNLABELED = ['a', 'b'], [f'u{number}' for number in range(9)]
#: What a ranking says here: the last one first.
SCORES = {'12 labels': 40.0, 'random': 42.0, 'ranked': 45.0}


@pytest.fixture
def runs(monkeypatch: Any, tmp_path: Path) -> list[Experiment]:
    """The experiments that would have been run, on a CamVid of which there are lists alone."""
    monkeypatch.setenv('CAMVID_ROOT', str(tmp_path))
    tool.write_lists(tmp_path / 'splits/12', LABELED, UNLABELED)
    for kind in ('images', 'annotations'):
        (tmp_path / kind / 'test').mkdir(parents=True)
    done: list[Experiment] = []

    def run(experiment: Experiment) -> dict[str, float]:
        done.append(experiment)
        kind = Path(experiment.work_dir).parent.name.replace('start', '12 labels')
        return dict(mIoU=SCORES[kind] + experiment.seed, train_minutes=1.0)

    def call(command: list[str], log: str, threads: int | None, what: str) -> None:
        words = command[command.index('predict') :]
        assert words[1].endswith('start/run/iter_7.pth') and words[-2:] == [
            '--rank-by',
            'uncertainty',
        ]
        given = Path(words[2]).read_text().split()
        assert given == [f'{tmp_path}/images/train/{name}.png' for name in UNLABELED]
        out = Path(words[words.index('--out') + 1])
        out.mkdir(parents=True)
        (out / 'ranking.csv').write_text(
            '\n'.join(['rank,image', *(f'1,{one}' for one in given[::-1])])
        )

    monkeypatch.setattr(Experiment, 'run', run)
    monkeypatch.setattr(tool, 'call', call)
    monkeypatch.setattr(tool, 'latest_checkpoint', lambda folder: f'{folder}/iter_7.pth')
    return done


def test_ranked_and_random_labels_are_added_to_the_same_list(runs, tmp_path, capsys):
    words = ['--more', '3', '--seeds', '0', '1', '--iters', '7', '--work-dir', str(tmp_path / 'w')]
    tool.main(words)
    lists: dict[tuple[str, int], list[str]] = {}
    for run in runs:
        options = dict(option.split('=', 1) for option in run.options)
        labeled = Path(options['train_dataloader.dataset.labeled.ann_file'])
        left = labeled.with_name('unlabeled.txt').read_text().split()
        lists[labeled.parent.name, run.seed] = names = labeled.read_text().split()
        assert sorted(names + left) == sorted(LABELED + UNLABELED) and names[:2] == LABELED
        assert options['train_cfg.max_iters'] == '7' and 'supervised' in run.config
        assert 'load_from' not in options and labeled.is_absolute()
    for seed in (0, 1):
        assert lists['start', seed] == LABELED
        assert lists['ranked', seed][2:] == ['u8', 'u7', 'u6']
        assert len(lists['random', seed]) == 5
    assert lists['random', 0] != lists['random', 1]
    text = capsys.readouterr().out
    assert '| `ranked` | 45.50 ± 0.71 | +3.00 ± 0.00 | 0: 45.00, 1: 46.00 | 1.0 |' in text
    assert 'camvid, 12 labels and 3 more, test part.' in text


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--more', '10'], '--more 10: there are 9 without labels'),
        (['--labels', 'all'], '--labels all: there would be no image left to rank'),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_any_run(runs, words, message):
    with pytest.raises(SystemExit, match=message):
        tool.main(words)
    assert runs == []
