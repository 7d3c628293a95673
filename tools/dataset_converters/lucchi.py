#!/usr/bin/env python
"""Take the Lucchi mitochondria stacks apart."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.lucchi import main

if __name__ == '__main__':
    run_tool(main)
