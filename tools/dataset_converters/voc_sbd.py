#!/usr/bin/env python
"""Merge SBD's masks into Pascal VOC 2012."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.voc_sbd import main

if __name__ == '__main__':
    run_tool(main)
