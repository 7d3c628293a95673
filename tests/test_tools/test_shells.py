"""Every tool starts."""

from __future__ import annotations

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
