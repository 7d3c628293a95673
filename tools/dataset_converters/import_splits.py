#!/usr/bin/env python
"""Bring published lists of labeled and unlabeled images into the form that the configs read."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.import_splits import main

if __name__ == '__main__':
    run_tool(main)
