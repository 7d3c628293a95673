#!/usr/bin/env python
"""Measure how often neighboring pixels of the labeled masks share their class."""

import sys

from mmseg_semi.analysis.neighbor_agreement import main

if __name__ == '__main__':
    sys.exit(main())
