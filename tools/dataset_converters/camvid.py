#!/usr/bin/env python
"""Make CamVid ready: 11 classes at 240 x 180 pixels, with few labels."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.camvid import main

if __name__ == '__main__':
    run_tool(main)
