#!/usr/bin/env python
"""Test a checkpoint."""

import sys

from mmseg_semi.apis.test import main

if __name__ == '__main__':
    sys.exit(main())
