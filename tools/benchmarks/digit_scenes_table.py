#!/usr/bin/env python
"""Run configs on digit scenes over several seeds and write a result table."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.digit_scenes_table import main

if __name__ == '__main__':
    run_tool(main)
