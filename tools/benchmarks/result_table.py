#!/usr/bin/env python
"""Run configs with several seeds and write a table of their results."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.result_table import main

if __name__ == '__main__':
    run_tool(main)
