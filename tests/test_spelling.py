"""Code and prose are spelled the American way."""

from __future__ import annotations

import re

from tool_runs import REPO

# Brackets keep the words from finding themselves.
BRITISH = re.compile(
    r'(?:(?:behavi|col|fav|hon|neighb)o[u]r|gr[e]y|cent[r]e|lear[n]t|spel[t]|arte[f]act'
    r'|(?:label|model|cancel)l[ei](?:d|ng)|licen[c]e|catalo[g]ue|analy[s](?:e|ing)'
    r'|(?:al|an|im|on|ar|er|or|it)i[s](?:e|ing|ation))',
    re.IGNORECASE,
)
THEIRS = ('was_cancel' + 'led',)  # keys in files of other programs
FOLDERS = ('.github', 'configs', 'docs', 'mmseg_semi', 'tests', 'tools')
SUFFIXES = ('.py', '.md', '.yml', '.toml')


def test_spelling_is_american():
    paths = [*REPO.glob('*'), *(path for name in FOLDERS for path in (REPO / name).rglob('*'))]
    paths = [path for path in paths if path.suffix in SUFFIXES]
    assert len(paths) > 500
    texts = {path: path.read_text(encoding='utf-8') for path in paths}
    found = [
        f'{path.relative_to(REPO)}:{number}: {word}'
        for path, text in texts.items()
        if BRITISH.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        for word in re.findall(r'\w+', line)
        if BRITISH.search(word) and word not in THEIRS
    ]
    assert not found, '\n'.join(found)
