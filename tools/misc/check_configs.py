#!/usr/bin/env python
"""Check the configs of the papers' tables: files, builds, README.md and metafile.yml."""

import sys

from mmseg_semi.zoo.check_configs import main

if __name__ == '__main__':
    sys.exit(main())
