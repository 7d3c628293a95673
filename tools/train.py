#!/usr/bin/env python
"""Train a config, with or without unlabeled images, or a detector of mmdet."""

import sys

from mmseg_semi.apis.train import main

if __name__ == '__main__':
    sys.exit(main())
