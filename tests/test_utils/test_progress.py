"""Progress of tools."""

from __future__ import annotations

import io
import sys

import pytest

from mmseg_semi.utils import progress
from mmseg_semi.utils.progress import track


@pytest.mark.parametrize('number, lines', [(0, 0), (1, 1), (4, 4), (10, 10), (99, 10), (1000, 10)])
def test_a_log_file_gets_a_line_each_tenth(capsys, number, lines):
    assert list(track(list(range(number)), 'masks')) == list(range(number))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines
    assert not lines or printed[-1] == f'{number} of {number} masks'


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    bars = []

    def bar(items):
        bars.append(list(items))
        yield from items

    monkeypatch.setattr(sys, 'stdout', terminal)
    monkeypatch.setattr(progress, 'track_iter_progress', bar)
    assert list(track([1, 2, 3])) == [1, 2, 3]
    assert bars == [[1, 2, 3]] and not terminal.getvalue()
