import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from tool_runs import REPO

from mmseg_semi.datasets.splits import split_hash
from mmseg_semi.zoo import quickstart
from mmseg_semi.zoo.pictures import draw_tests

RESULTS = {
    'supervised': dict(mIoU=40.0, mAcc=50.0, train_minutes=1.0),
    'UniMatch': dict(mIoU=51.25, mAcc=60.0, train_minutes=5.5),
}


def plan(*options):
    args = quickstart.parse_args(options)
    return quickstart.DATA[args.data].plan(args)


def part_of(data):
    config = quickstart.DATA[data].config
    return Config.fromfile(str(REPO / config)).test_dataloader.dataset


def test_picture_shows_image_truth_and_both_predictions(digit_root, tmp_path):
    _, runs = plan('--out', str(tmp_path))
    data = part_of('digit-scenes')
    assert data.data_root == 'data/digit_scenes/'
    data.data_root = str(digit_root)
    for i, run in enumerate(runs.values()):
        folder = Path(run.work_dir, 'predictions')
        folder.mkdir(parents=True)
        for scene in range(5):
            cv2.imwrite(str(folder / f'{scene:06d}.png'), np.full((64, 64), 1 + 254 * i, np.uint8))
    palette = np.array(json.loads((digit_root / 'meta.json').read_text())['palette'])
    shown = {name: Path(run.work_dir) for name, run in runs.items()}
    draw_tests(tmp_path / 'picture.png', data, shown, 2, 2)
    picture = cv2.imread(str(tmp_path / 'picture.png'))
    palette[0] = 96  # black is what is not selected
    assert picture.shape[1] == 3 * 8 + 2 * 192
    rows = [picture[top : top + 192] for top in range(30, 30 + 4 * 222, 222)]
    for place, scene in ((8, '000000'), (208, '000002')):
        tiles = [row[:, place : place + 192] for row in rows]
        image = cv2.imread(str(digit_root / f'images/test/{scene}.png'))
        assert np.array_equal(tiles[0][::3, ::3], image)
        truth = cv2.imread(str(digit_root / f'annotations/test/{scene}.png'), 0)
        assert np.array_equal(tiles[1][::3, ::3, ::-1], palette[truth])
    assert (rows[2][:, 8:200, ::-1] == palette[1]).all()
    assert (rows[3][:, 8:200] == 255).all(), 'what has no class is white'
    assert len(np.unique(picture[30 + 4 * 222 - 22 :].reshape(-1, 3), axis=0)) > 4, 'a legend'


def test_table_has_the_measured_numbers(tmp_path):
    _, runs = plan()
    text = quickstart.write_table(tmp_path, 'Scenes', runs, RESULTS, seed=7).read_text()
    assert 'Scenes, seed 7' in text and '| 40.00 | 50.00 | 1.0 |' in text
    assert '| UniMatch | `' in text and '| 51.25 | 60.00 | 5.5 |' in text


def test_digit_scenes_are_the_default():
    starts, runs = plan('--seed', '4')
    assert starts == {} and list(runs) == ['supervised', 'UniMatch']
    assert {run.seed for run in runs.values()} == {4} and not runs['UniMatch'].options
    assert runs['UniMatch'].config.endswith('configs/unimatch/unimatch_unet_digit-scenes-60.py')
    assert runs['UniMatch'].work_dir == 'work_dirs/quickstart/digit-scenes/unimatch'


def test_both_networks_go_on_from_one_start_on_land_cover():
    starts, runs = plan('--data', 'land-cover', '--seed', '4')
    ((name, start),) = starts.items()
    assert name == 'common start' and start.options == ['train_cfg.max_iters=500']
    assert start.work_dir == 'work_dirs/quickstart/land-cover/land-cover-32/start/seed4'
    assert list(runs) == ['supervised', 'UniMatch']
    for method, run in zip(('supervised', 'unimatch'), runs.values()):
        assert run.config.endswith(f'configs/{method}/{method}_efficientnet-lite0_land-cover-32.py')
        assert run.seed == 4 and Path(run.config).is_file()
        load = f'load_from={start.work_dir}/iter_500.pth'
        assert run.options[:2] == [load, 'train_cfg.max_iters=500']
    assert part_of('land-cover').data_root == 'data/land_cover'


def test_the_data_are_made_before_the_runs(tmp_path, monkeypatch, capsys):
    steps, splits = [], set()
    monkeypatch.setenv('LAND_COVER_ROOT', str(tmp_path / 'tiles'))

    def convert(args):
        steps.append(args)
        lists = tmp_path / 'tiles/splits/32'
        lists.mkdir(parents=True)
        for part in ('labeled', 'unlabeled'):
            (lists / f'{part}.txt').write_text(f'{part}\n')

    def run_all(runs):
        splits.update(run.split for run in runs.values())
        steps.append(list(runs))
        return {name: RESULTS['supervised'] for name in runs}

    monkeypatch.setattr(quickstart.land_cover, 'main', convert)
    monkeypatch.setattr(quickstart, 'run_all', run_all)
    monkeypatch.setattr(quickstart, 'draw_tests', lambda path, *args: None)
    quickstart.main(['--data', 'land-cover', '--out', str(tmp_path)])
    first = ['--out', str(tmp_path / 'tiles')]
    assert steps == [first, ['common start'], ['supervised', 'UniMatch']]
    assert splits == {split_hash(['labeled'], ['unlabeled'])}
    table = (tmp_path / 'table.md').read_text()
    assert table in capsys.readouterr().out and '| common start | `' in table
    assert table.startswith('Land cover, 32 labeled and 197 unlabeled images, 500 steps after')


def test_all_experiments_run_and_a_failure_is_raised():
    class Fake:
        config, work_dir = 'c.py', 'w'

        def __init__(self, outcome):
            self.outcome = outcome

        def result(self):
            return None

        def run(self):
            if isinstance(self.outcome, Exception):
                raise self.outcome
            return self.outcome

    made = quickstart.run_all({'a': Fake(dict(mIoU=1)), 'b': Fake(dict(mIoU=2))})
    assert made == {'a': dict(mIoU=1), 'b': dict(mIoU=2)}
    with pytest.raises(RuntimeError, match='broken'):
        quickstart.run_all({'a': Fake(dict(mIoU=1)), 'b': Fake(RuntimeError('broken'))})
