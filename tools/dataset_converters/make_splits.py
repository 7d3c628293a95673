#!/usr/bin/env python
"""Draw labeled images of a data set at random, and list the other ones as unlabeled."""

import sys

from mmseg_semi.prepare.make_splits import main

if __name__ == '__main__':
    sys.exit(main())
