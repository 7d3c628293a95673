#!/usr/bin/env python
"""Make masks of 81 classes out of COCO's instances."""

import sys

from mmseg_semi.prepare.coco_masks import main

if __name__ == '__main__':
    sys.exit(main())
