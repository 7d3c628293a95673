#!/usr/bin/env python
"""Draw labeled images of a data set at random, and list the other ones as unlabeled."""

from mmseg_semi.errors import run_tool
from mmseg_semi.prepare.make_splits import main

if __name__ == '__main__':
    run_tool(main)
