#!/usr/bin/env python
"""Merge SBD's masks into Pascal VOC 2012."""

import sys

from mmseg_semi.prepare.voc_sbd import main

if __name__ == '__main__':
    sys.exit(main())
