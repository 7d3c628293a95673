"""Where configs and tools are, in a repository and in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest
from tool_runs import REPO

from mmseg_semi.errors import DataError, exiting, reading
from mmseg_semi.files import read_json, shipped_root


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


def test_a_json_file_that_is_none_is_named_with_its_key_and_what_to_do(tmp_path: Path):
    path = tmp_path / 'boxes.json'
    with pytest.raises(FileNotFoundError, match=rf'^a\.b: there is no file {path} .* Make it\.$'):
        read_json(path, 'Make it.', 'a.b')
    path.write_text('{')
    with pytest.raises(DataError, match=rf'^{path} is no JSON file: .* Make it\.$'):
        read_json(path, 'Make it.', error=DataError)
    path.write_text('{"a": [1]}')
    assert read_json(path, 'Make it.') == dict(a=[1])


def test_errors_of_decoders_name_the_file_and_those_of_ours_pass():
    message = r'^a\.png cannot be read: KeyError: 3\. Copy or download'
    with pytest.raises(DataError, match=message), reading('a.png'):
        raise KeyError(3)
    with pytest.raises(DataError, match='^ours$'), reading('a.png'):
        raise DataError('ours')
    with pytest.raises(SystemExit, match='^ours$'), exiting(DataError):
        raise DataError('ours')
    with pytest.raises(KeyError), exiting(DataError):
        raise KeyError(3)
