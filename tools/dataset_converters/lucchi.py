#!/usr/bin/env python
"""Take the Lucchi mitochondria stacks apart."""

import sys

from mmseg_semi.prepare.lucchi import main

if __name__ == '__main__':
    sys.exit(main())
