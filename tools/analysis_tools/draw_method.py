#!/usr/bin/env python
"""Draw what RankMatch's agents or S4MC's refinement do on test images."""

from mmseg_semi.analysis.draw_method import main
from mmseg_semi.errors import run_tool

if __name__ == '__main__':
    run_tool(main)
