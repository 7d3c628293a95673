#!/usr/bin/env python
"""Train UniMatch and its supervised baseline on digit scenes; write a picture and a table."""

import sys

from mmseg_semi.zoo.quickstart import main

if __name__ == '__main__':
    sys.exit(main())
