#!/usr/bin/env python
"""Make masks of 81 classes out of COCO's instances."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.coco_masks import main

if __name__ == '__main__':
    run_tool(main)
