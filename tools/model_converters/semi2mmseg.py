#!/usr/bin/env python
"""Turn a checkpoint of the UniMatch family into one that mmseg's models load."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.semi2mmseg import main

if __name__ == '__main__':
    run_tool(main)
