#!/usr/bin/env python
"""Make the COCO files that a detector learns from, out of the masks of a training config."""

from mmseg_semi.detection.masks_to_coco import main
from mmseg_semi.errors import run_tool

if __name__ == '__main__':
    run_tool(main)
