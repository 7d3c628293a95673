#!/usr/bin/env python
"""Make the mitochondria of the ssTEM stack of a fly's nerve cord ready, with few labels."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.sstem import main

if __name__ == '__main__':
    run_tool(main)
