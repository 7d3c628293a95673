#!/usr/bin/env python
"""Compare methods on a small set of real images and write a table."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.real_images import main

if __name__ == '__main__':
    run_tool(main)
