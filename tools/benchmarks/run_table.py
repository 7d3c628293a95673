#!/usr/bin/env python
"""Run, resume or print the configs of a paper's table, and write the table."""

import sys

from mmseg_semi.zoo.run_table import main

if __name__ == '__main__':
    sys.exit(main())
