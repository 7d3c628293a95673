#!/usr/bin/env python
"""Train two steps of every framework with every plug-in and list what came out."""

import sys

from mmseg_semi.zoo.compatibility import main

if __name__ == '__main__':
    sys.exit(main())
