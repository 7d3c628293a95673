#!/usr/bin/env python
"""Test a checkpoint."""

from mmseg_semi_cli import run_tool

if __name__ == '__main__':
    run_tool('mmseg_semi.apis.test')
