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
    """What a page says: the machine, rows and notes.

    Raises:
        ValueError: It is none of a benchmark.
    """
    lines = page.splitlines()
    table = [cells(line) for line in lines if line.startswith('|')]
    machine = [line for line in lines if line.startswith('Measured on ')]
    if not machine or len(table) < 3:
        raise ValueError('no page of a benchmark')
    return dict(
        machine=machine[0],
        rows=[dict(zip(table[0], row)) for row in table[2:]],
        notes=[line[2:] for line in lines if line.startswith('- ')],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Join and write."""
    args = parse_args(argv)
    if not args.out.is_dir():
        raise SystemExit(f'--out {args.out}: is no folder, make it first')
    pages, found = {}, {}
    for path in args.pages:
        try:
            pages[path.stem] = path.read_text(encoding='utf-8')
            found[path.stem] = content(pages[path.stem])
        except (OSError, ValueError) as error:
            raise SystemExit(
                f'{path}: cannot be joined ({error}); give pages that the tools of this folder '
                'wrote with --out'
            ) from error
    text = '\n'.join(f'## {name}\n\n{page}' for name, page in pages.items())
    (args.out / 'benchmarks.md').write_text(f'# Benchmarks\n\n{text}')
    (args.out / 'benchmarks.json').write_text(json.dumps(found, indent=1) + '\n')
    print(f'{args.out / "benchmarks.md"}, {args.out / "benchmarks.json"}')


if __name__ == '__main__':
    main()
