#!/usr/bin/env python
"""Write the configs of the papers' tables, and what lists them."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.write_configs import main

if __name__ == '__main__':
    run_tool(main)
