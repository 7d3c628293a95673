"""What importing the package needs and does."""

from __future__ import annotations

import ast

import pytest
from tool_runs import CONFIGS, REPO, UNIMATCH

SCRIPT = """
import importlib.util, sys
try:
    import mmdet
except ImportError:
    print('no mmdet')
import mmseg_semi
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
init_default_scope('mmseg')
model = MODELS.build(Config.fromfile({config!r}).model)
print('built', type(model).__name__)
print('mmdet modules', sorted(name for name in sys.modules if name.split('.')[0] == 'mmdet'))
"""


def test_imports_and_builds_without_mmdet(plain_server, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT.format(config=str(CONFIGS / UNIMATCH)))
    done = plain_server.run(script, unblock=['mmseg_semi'])
    lines = done.output.splitlines()
    assert [line for line in lines if line.startswith(('no', 'built', 'mmdet'))] == [
        *('no mmdet', 'built SemiSegmentor', 'mmdet modules []')
    ]


BOTTOM = {'errors', 'files', 'arguments'}
FLOORS = dict(
    functional=BOTTOM,
    structures=BOTTOM | {'functional'},
    datasets=BOTTOM | {'functional', 'structures'},
    detection=BOTTOM | {'functional', 'structures', 'datasets'},
)


@pytest.mark.parametrize('room', FLOORS)
def test_a_room_imports_from_the_floors_below_alone(room):
    found = set()
    for path in (REPO / 'mmseg_semi' / room).rglob('*.py'):
        parts = path.relative_to(REPO).with_suffix('').parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = '.'.join(parts[: len(parts) - node.level]) if node.level else ''
                start = '.'.join(filter(None, (start, node.module)))
                names = [f'{start}.{alias.name}' for alias in node.names]
            else:
                continue
            found |= {name.split('.')[1] for name in names if name.startswith('mmseg_semi.')}
    assert found and found - {room} <= FLOORS[room]
