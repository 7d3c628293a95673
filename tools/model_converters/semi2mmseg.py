#!/usr/bin/env python
"""Turn a checkpoint of the UniMatch family into one that mmseg's models load."""

import sys

from mmseg_semi.zoo.semi2mmseg import main

if __name__ == '__main__':
    sys.exit(main())
