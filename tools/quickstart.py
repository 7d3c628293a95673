#!/usr/bin/env python
"""Train UniMatch and its supervised baseline on small data; write a picture and a table."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.quickstart import main

if __name__ == '__main__':
    run_tool(main)
