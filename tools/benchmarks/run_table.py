#!/usr/bin/env python
"""Run, resume or print the configs of a paper's table, and write the table."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.run_table import main

if __name__ == '__main__':
    run_tool(main)
