#!/usr/bin/env python
"""Write a semi-supervised checkpoint's student or teacher as a plain mmseg model."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.extract_segmentor import main

if __name__ == '__main__':
    run_tool(main)
