"""Progress of tools."""

from __future__ import annotations

import io
import sys
import time

import pytest

from mmseg_semi.utils.progress import duration, track

LEFT = ('5 min', '3 min', '100 s')


@pytest.mark.parametrize(
    ('seconds_each', 'lines'),
    [
        (1, []),
        (25, ['3 of 4 masks, 0.04 a second, about 25 s left']),
        (100, [f'{i + 1} of 4 masks, 0.01 a second, about {LEFT[i]} left' for i in range(3)]),
    ],
)
def test_a_log_file_gets_a_line_a_minute(capsys, monkeypatch, seconds_each, lines):
    clock = iter(range(0, 10_000, seconds_each))
    monkeypatch.setattr(time, 'monotonic', lambda: next(clock))
    assert list(track(list('abcd'), 'masks')) == list('abcd')
    assert capsys.readouterr().out.splitlines() == lines


def test_nothing_and_what_has_no_length(capsys):
    assert list(track([])) == []
    assert list(track(iter('ab'), total=2)) == ['a', 'b']
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('items', [[1, 2, 3], iter([1, 2, 3])])
def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch, items):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stdout', terminal)
    assert list(track(items, 'masks', total=3)) == [1, 2, 3]
    assert 'masks' in terminal.getvalue() and '3/3' in terminal.getvalue()


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.2, '1 s'), (119, '119 s'), (121, '2 min'), (7140, '119 min'), (9000, '2.5 h')],
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text
