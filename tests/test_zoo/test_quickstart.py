import json

import cv2
import numpy as np
import pytest

from mmseg_semi.zoo import quickstart

RESULTS = {
    'supervised': dict(mIoU=40.0, mAcc=50.0, train_minutes=1.0),
    'UniMatch': dict(mIoU=51.25, mAcc=60.0, train_minutes=5.5),
}


def test_picture_shows_image_truth_and_both_predictions(digit_root, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, 'DATA', str(digit_root))
    for i, name in enumerate(('supervised', 'unimatch')):
        (tmp_path / name / 'predictions').mkdir(parents=True)
        for scene in range(5):
            label = np.full((64, 64), 1 + i, np.uint8)
            cv2.imwrite(str(tmp_path / name / f'predictions/{scene:06d}.png'), label)
    palette = np.array(json.loads((digit_root / 'meta.json').read_text())['palette'])
    picture = cv2.imread(str(quickstart.draw(tmp_path, RESULTS, scenes=5)))
    assert picture.shape == (4 * (28 + 128), 5 * 132, 3)
    rows = [picture[28 + i * 156 : (i + 1) * 156] for i in range(4)]
    scene = cv2.imread(str(digit_root / 'images/test/000000.png'))
    assert np.array_equal(rows[0][:128, :128][::2, ::2], scene)
    truth = cv2.imread(str(digit_root / 'annotations/test/000000.png'), 0)
    assert np.array_equal(rows[1][:128, :128][::2, ::2, ::-1], palette[truth])
    for row, label in zip(rows[2:], (1, 2)):
        assert (row[:128, :128, ::-1] == palette[label]).all()


def test_table_has_the_measured_numbers(tmp_path):
    text = quickstart.write_table(tmp_path, RESULTS, seed=7).read_text()
    assert 'seed 7' in text and '| 40.00 | 50.00 | 1.0 |' in text
    assert '| UniMatch | `configs/unimatch/' in text and '| 51.25 | 60.00 | 5.5 |' in text


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
