#!/usr/bin/env python
"""Make the cell nuclei of the 2018 Data Science Bowl ready, with few labels."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.nuclei import main

if __name__ == '__main__':
    run_tool(main)
