"""Whole steps against recordings of the released programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.parity import replay
from tests.parity.comparison import Comparison, Recording

FOLDER = Path(os.environ.get('PARITY_RECORDINGS', Path(__file__).parents[3] / 'shared' / 'parity'))
FILES = sorted(FOLDER.glob('*.npz'))


@pytest.mark.skipif(not FILES, reason=f'no recordings in {FOLDER} (PARITY_RECORDINGS)')
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_the_released_preset_takes_the_recorded_step(path):
    found = replay.replay(Recording(path)).comparison
    assert found.passes(replay.LIMIT), str(found)


def test_a_difference_fails(capsys, tmp_path):
    found = Comparison()
    found.add('loss', 'one', 1.0, 1.0)
    found.add('gradient', 'two', [1.0, 2.0], [1.0, 2.0 + 1e-7])
    found.add_equal('three', torch.tensor([True, False]), torch.tensor([True, False]))
    assert not found.passes(1e-8) and found.passes(1e-7)
    assert found.largest['gradient'] == (pytest.approx(5e-8), 'two')
    assert not Comparison().passes(1.0), 'nothing was compared'
    (tmp_path / 'no.npz').write_text('no')
    assert replay.main([str(tmp_path / 'no.npz')]) == 2
    assert 'no.npz: cannot be replayed' in capsys.readouterr().out
