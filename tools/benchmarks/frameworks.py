#!/usr/bin/env python
"""Measure the training step of each framework as a multiple of the supervised one."""

from mmseg_semi.benchmarks.frameworks import main
from mmseg_semi.errors import run_tool

if __name__ == '__main__':
    run_tool(main)
