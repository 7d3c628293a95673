#!/usr/bin/env python
"""Test a checkpoint."""

from mmseg_semi.apis.test import main
from mmseg_semi.errors import run_tool

if __name__ == '__main__':
    run_tool(main)
