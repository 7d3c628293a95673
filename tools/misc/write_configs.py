#!/usr/bin/env python
"""Write the configs of the papers' tables, and what lists them."""

import sys

from mmseg_semi.zoo.write_configs import main

if __name__ == '__main__':
    sys.exit(main())
