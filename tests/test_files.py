"""Where configs and tools are, in a repository and in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest
from tool_runs import REPO

from mmseg_semi.files import shipped_root


def test_configs_and_tools_are_those_of_the_repository_else_those_of_the_wheel(tmp_path: Path):
    package = tmp_path / 'mmseg_semi'
    with pytest.raises(FileNotFoundError, match=r'neither .*mmseg_semi/\.mim has model-index\.yml'):
        shipped_root(package)
    (package / '.mim').mkdir(parents=True)
    (package / '.mim' / 'model-index.yml').touch()
    assert shipped_root(package) == package / '.mim'
    (tmp_path / 'configs').mkdir()  # of some other package in the same folder
    assert shipped_root(package) == package / '.mim'
    (tmp_path / 'model-index.yml').touch()
    assert shipped_root(package) == tmp_path
    assert shipped_root() == REPO
