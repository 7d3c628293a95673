"""Every ``raise`` of the package that a user can reach says what it is about and what to do.

What is raised and how it is told in the tools is in ``test_errors.py``; ``test_bad_inputs.py`` runs
inputs through the command lines.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'mmseg_semi'
# Passed on with the text of another, or never seen: of an abstract base, of a bug in the package.
PASSED_ON = ('NotImplementedError', 'AssertionError', 'IndexError', 'UnicodeError', 'failed')
# The text of another message, or made by a function.
WHOLE = re.compile(r'\{[\w.\[\]()]+\}')
# For those who change the configs and papers' tables of this repository.
MAINTAINERS = tuple(
    f'zoo/{name}.py' for name in ('check_configs', 'compatibility', 'paper_tables', 'write_configs')
)
LISTS = ('zoo/', 'benchmarks/scale.py', 'prepare/conversion.py', 'prepare/digit_scenes.py')
# What a message is about: a value, an option, a key or class of a config.
ABOUT = re.compile(r'\{|--\w|\w\.\w|[A-Z][a-z]+[A-Z]|`|=')
# What is allowed, or what to do.
REMEDY = re.compile(
    r'\b(must|set|use|give|remove|correct|name|write|put|leave|run|install|make|take|copy|choose'
    r'|add|resume|start|needs?|load|check|look|train|replace|raise|fetch|save|download|keep|allowed'
    r'|one of|lower|free|try|go|predict|are missing|only|say which|is now'
    r'|classes are|looked for|again|go on)\b'
    r'|\{[^}]*(remedy|REMEDY|PICKLE|advice|rule|error|hint|reason|what)',
    re.IGNORECASE,
)


class Message(NamedTuple):
    """A message, with ``{name}`` where a value stands."""

    place: str
    text: str


def text_of(node: ast.expr) -> str:
    """The text of an expression; of two choices, both."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return ''.join(map(text_of, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.FormattedValue):
        return f'{{{ast.unparse(node.value)}}}'
    return f'{{{ast.unparse(node)}}}'


def messages() -> Iterator[Message]:
    """All messages that are raised, or end a tool or its command line."""
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith('parser.error'):
                call = node
            if not isinstance(call, ast.Call) or not call.args:
                continue
            place = path.relative_to(PACKAGE).as_posix()
            text = text_of(call.args[0])
            passed_on = ast.unparse(call.func).startswith(PASSED_ON) or WHOLE.fullmatch(text)
            if not passed_on and place not in MAINTAINERS:
                yield Message(f'{place}:{call.lineno}', text)


ALL = list(messages())


def test_they_are_all_found():
    raises = sum(path.read_text().count('raise ') for path in PACKAGE.rglob('*.py'))
    print(f'{len(ALL)} messages')
    assert 450 < len(ALL) < raises


@pytest.mark.parametrize('message', ALL, ids=[message.place for message in ALL])
def test_it_is_about_something_and_says_what_to_do(message):
    assert ABOUT.search(message.text)
    assert REMEDY.search(message.text)
    # Lists may have lines; a sentence has none, does not shout, and does not trail off.
    assert '\n' not in message.text or message.place.startswith(LISTS)
    assert not re.search(r'!|\.\.\.$|\bplease\b|\bsorry\b|\bInvalid\b', message.text)
    assert len(message.text) < 700
