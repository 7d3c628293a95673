#!/usr/bin/env python
"""Make the masks of Cityscapes' 19 classes out of its label ids."""

import sys

from mmseg_semi.prepare.cityscapes_train_ids import main

if __name__ == '__main__':
    sys.exit(main())
