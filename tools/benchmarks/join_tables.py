#!/usr/bin/env python
"""Join the pages that the tools of this folder wrote with ``--out``, as Markdown and as JSON.

A page is called by its file's name. ``benchmarks.md`` has them one after the other,
``benchmarks.json`` the rows of their tables by the names of the columns, and their notes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('pages', nargs='+', type=Path, help='Markdown files')
    parser.add_argument('--out', type=Path, required=True, help='folder to write to')
    return parser.parse_args(argv)


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip().strip('`') for cell in line.strip('|').split('|')]


def content(page: str) -> dict[str, Any]:
    """What a page says: the machine, rows and notes."""
    lines = page.splitlines()
    heads, _, *rows = [cells(line) for line in lines if line.startswith('|')]
    return dict(
        machine=next(line for line in lines if line.startswith('Measured on ')),
        rows=[dict(zip(heads, row)) for row in rows],
        notes=[line[2:] for line in lines if line.startswith('- ')],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Join and write."""
    args = parse_args(argv)
    pages = {path.stem: path.read_text() for path in args.pages}
    found = {name: content(page) for name, page in pages.items()}
    text = '\n'.join(f'## {name}\n\n{page}' for name, page in pages.items())
    (args.out / 'benchmarks.md').write_text(f'# Benchmarks\n\n{text}')
    (args.out / 'benchmarks.json').write_text(json.dumps(found, indent=1) + '\n')
    print(f'{args.out / "benchmarks.md"}, {args.out / "benchmarks.json"}')


if __name__ == '__main__':
    main()
