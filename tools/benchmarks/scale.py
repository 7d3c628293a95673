#!/usr/bin/env python
"""Measure the start of a training with very many files."""

import sys

from mmseg_semi.benchmarks.scale import main

if __name__ == '__main__':
    sys.exit(main())
