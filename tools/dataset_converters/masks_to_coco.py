#!/usr/bin/env python
"""Make the COCO files that a detector learns from, out of the masks of a training config."""

import sys

from mmseg_semi.detection.masks_to_coco import main

if __name__ == '__main__':
    sys.exit(main())
