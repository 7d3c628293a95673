#!/usr/bin/env python
"""Bring published lists of labeled and unlabeled images into the form that the configs read."""

import sys

from mmseg_semi.prepare.import_splits import main

if __name__ == '__main__':
    sys.exit(main())
