#!/usr/bin/env python
"""Make the digit scenes: a small, real, deterministic data set for semi-supervised segmentation."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.digit_scenes import main

if __name__ == '__main__':
    run_tool(main)
