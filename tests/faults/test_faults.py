"""One try of some faults; ``run.py`` tries all of them, and more often."""

from __future__ import annotations

import random

import pytest
from faults.bench import Bench
from faults.faults import FAULTS


@pytest.fixture(scope='module')
def bench(server, digit_root, tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp('faults'), digit_root, server)


QUICK = [
    'SIGKILL while a checkpoint is written, Mean Teacher',
    'SIGINT for the run and its workers',
    'newest checkpoint with a flipped bit',
    'flipped bit anywhere in a checkpoint',
    'full disk',
    'second run in the work folder',
]


@pytest.mark.parametrize('name', QUICK)
def test_nothing_is_lost_or_wrong(name, bench):
    assert FAULTS[name](bench, random.Random(name)) == (False, False)


@pytest.mark.two_ranks
@pytest.mark.parametrize('name', ['one of two ranks raises an error'])
def test_two_ranks_end_with_the_cause(name, bench):
    assert FAULTS[name](bench, random.Random(name)) == (False, False)
