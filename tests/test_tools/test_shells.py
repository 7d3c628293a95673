"""Every tool starts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tool_runs import TOOLS

SCRIPTS = [path for path in sorted(TOOLS.rglob('*.py')) if path.name != 'setup_probe.py']


@pytest.mark.parametrize('path', SCRIPTS, ids=[str(path.relative_to(TOOLS)) for path in SCRIPTS])
def test_it_says_its_options(server: Any, path: Path) -> None:
    assert f'usage: {path.name} [-h]' in server.run(path, '--help').output


def test_all_were_found() -> None:
    assert len(SCRIPTS) == 42


@pytest.mark.parametrize('words', [('--data', 'leaves'), ('--data=leaves',), ('--data',)])
def test_the_quickstart_refuses_other_data_before_the_set_up(words: tuple[str, ...]) -> None:
    command = ['bash', str(TOOLS / 'quickstart.sh'), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    value = 'leaves' if 'leaves' in words[-1] else ''
    said = f"ERROR: --data '{value}' is not known; allowed: digit-scenes, land-cover"
    assert (done.returncode, done.stdout) == (1, '') and said in done.stderr
