"""Each part of the package imports only parts below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tool_runs import REPO

#: From the bottom up; parts of one floor do not import each other.
FLOORS = (
    ('files', 'version'),
    ('errors',),
    ('arguments',),
    ('functional',),
    ('structures',),
    ('datasets', 'models'),
    ('utils',),
    ('detection',),
    ('engine', 'evaluation'),
    ('prepare',),
    ('apis',),
    ('analysis', 'zoo', 'benchmarks'),
    ('__main__',),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
PACKAGE = REPO / 'mmseg_semi'


def imports() -> Iterator[tuple[str, str, str]]:
    """Where, the importing part and the imported one; "" for the package itself."""
    for path in sorted(PACKAGE.rglob('*.py')):
        place = path.relative_to(PACKAGE).with_suffix('').parts
        if place[0] == '.mim':
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = []
            if isinstance(node, ast.ImportFrom):
                start = [PACKAGE.name, *place][: -node.level] if node.level else []
                names = ['.'.join([*start, *([node.module] if node.module else [])])]
                if names == [PACKAGE.name]:
                    names = [f'{PACKAGE.name}.{alias.name}' for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for first, _, rest in (name.partition('.') for name in names):
                if first == PACKAGE.name and place != ('__init__',):
                    yield f'{"/".join(place)}.py:{node.lineno}', place[0], rest.split('.')[0]


def test_every_part_has_a_floor():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or path.is_dir()}
    assert parts - {'__init__', '__pycache__', '.mim'} == FLOOR.keys()


def test_imports_go_down():
    found = list(imports())
    assert {('models', 'functional'), ('engine', 'datasets')} <= {pair[1:] for pair in found}
    wrong = [
        f'{where} imports {imported or PACKAGE.name}'
        for where, part, imported in found
        if part != imported and not (imported and FLOOR[imported] < FLOOR[part])
    ]
    assert not wrong, '\n'.join(wrong)
