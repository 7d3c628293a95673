#!/usr/bin/env python
"""Measure how often neighboring pixels of the labeled masks share their class."""

from mmseg_semi.analysis.neighbor_agreement import main
from mmseg_semi.errors import run_tool

if __name__ == '__main__':
    run_tool(main)
