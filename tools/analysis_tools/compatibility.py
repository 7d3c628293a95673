#!/usr/bin/env python
"""Train two steps of every framework with every plug-in and list what came out."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.compatibility import main

if __name__ == '__main__':
    run_tool(main)
