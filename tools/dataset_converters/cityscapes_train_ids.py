#!/usr/bin/env python
"""Make the masks of Cityscapes' 19 classes out of its label ids."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.cityscapes_train_ids import main

if __name__ == '__main__':
    run_tool(main)
