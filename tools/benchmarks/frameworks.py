#!/usr/bin/env python
"""Measure the training step of each framework as a multiple of the supervised one."""

import sys

from mmseg_semi.benchmarks.frameworks import main

if __name__ == '__main__':
    sys.exit(main())
