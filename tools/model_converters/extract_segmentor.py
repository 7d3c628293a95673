#!/usr/bin/env python
"""Write a semi-supervised checkpoint's student or teacher as a plain mmseg model."""

import sys

from mmseg_semi.zoo.extract_segmentor import main

if __name__ == '__main__':
    sys.exit(main())
