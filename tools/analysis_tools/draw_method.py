#!/usr/bin/env python
"""Draw what RankMatch's agents or S4MC's refinement do on test images."""

import sys

from mmseg_semi.analysis.draw_method import main

if __name__ == '__main__':
    sys.exit(main())
