#!/usr/bin/env python
"""Check the configs of the papers' tables: files, builds, README.md and metafile.yml."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.check_configs import main

if __name__ == '__main__':
    run_tool(main)
