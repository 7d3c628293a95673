#!/usr/bin/env python
"""Make tiles of the Earth with their land cover, with few labels."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.land_cover import main

if __name__ == '__main__':
    run_tool(main)
