"""Code and prose are spelled the American way."""

from __future__ import annotations

import re

from tool_runs import REPO

# Brackets keep the words from finding themselves.
BRITISH = re.compile(
    r'\w*(?:(?:behavi|col|fav|hon|neighb)o[u]r|gr[e]y|cent[r]e|lear[n]t|spel[t]|arte[f]act'
    r'|(?:label|model|cancel)l[ei](?:d|ng)|licen[c]e|catalo[g]ue|analy[s](?:e|ing)'
    r'|(?:al|an|im|on|ar|er|or|it)i[s](?:e|ing|ation))\w*',
    re.IGNORECASE,
)
THEIRS = ('was_cancel' + 'led',)  # keys in files of other programs
FOLDERS = ('.github', 'configs', 'docs', 'mmseg_semi', 'tests', 'tools')
SUFFIXES = ('.py', '.md', '.yml', '.toml')


def test_spelling_is_american():
    paths = [*REPO.glob('*'), *(path for name in FOLDERS for path in (REPO / name).rglob('*'))]
    paths = [path for path in paths if path.suffix in SUFFIXES]
    assert len(paths) > 500
    found = [
        f'{path.relative_to(REPO)}:{number}: {match[0]}'
        for path in paths
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)
        for match in BRITISH.finditer(line)
        if match[0] not in THEIRS
    ]
    assert not found, '\n'.join(found)
