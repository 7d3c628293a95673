"""What the audit of a detector counts, on boxes and pixels that are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mmseg_semi.analysis import detector_agreement as tool

# Two boxes of class 1, one of class 2; the second has an IoU of 8 * 10 / (100 + 100 - 80) = 2/3
# with the second true box, the third is of another class than the true box there.
BOXES = np.array([[0, 0, 10, 10], [22, 0, 32, 10], [40, 0, 50, 10]], np.float64)
CLASSES = np.array([1, 1, 2])
TRUE = [[1, 0, 0, 10, 10], [1, 20, 0, 30, 10], [1, 40, 0, 50, 10]]


@pytest.mark.parametrize(
    ('iou', 'right'), [(0.5, [True, True, False]), (0.8, [True, False, False])]
)
def test_a_box_is_right_from_an_overlap_on(iou: float, right: list[bool]) -> None:
    assert tool.find_right(BOXES, CLASSES, np.array(TRUE, np.float64), iou).tolist() == right


def test_a_true_box_is_used_once() -> None:
    twice = np.concatenate([BOXES[:1], BOXES[:1]])
    found = tool.find_right(twice, np.array([1, 1]), np.array(TRUE[:1], np.float64))
    assert found.tolist() == [True, False]


def test_the_report_has_boxes_and_pixels_of_each_class() -> None:
    audit = tool.Audit(['background', 'cat', 'dog'], {1, 2}, 0.9, iou=0.8)
    audit.add_boxes(BOXES, CLASSES, TRUE)
    label = np.array([[0, 1, 1, 2]])
    confidence = np.array([[0.95, 0.95, 0.95, 0.5]])  # the last is not selected
    inside = np.array([[False, True, False, True]])
    truth = np.array([[0, 1, 2, 2]])
    audit.add_pixels(label, confidence, inside, truth)
    text = audit.report()
    assert text.startswith('3 kept boxes, 33.3 % right (class, IoU >= 0.8); 33.3 % of 3 true boxes')
    rows = [line.strip('| ').split(' | ') for line in text.splitlines()[4:]]
    assert rows == [
        ['background', '0', '-', '1', '100.0 %', '0', '-', '1', '100.0 %'],
        ['cat', '2', '50.0 %', '2', '50.0 %', '1', '100.0 %', '1', '0.0 %'],
        ['dog', '1', '0.0 %', '0', '-', '0', '-', '0', '-'],
        ['all classes with boxes', '3', '33.3 %', '2', '50.0 %', '1', '100.0 %', '1', '0.0 %'],
    ]


def test_an_impossible_overlap_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.parse_args(['config.py', 'checkpoint.pth', 'masks', '--iou', '80'])
    assert '--iou must be above 0 and at most 1, got 80.0' in capsys.readouterr().err
