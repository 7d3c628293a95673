#!/usr/bin/env python
"""Write the embeddings of the names of classes, by CLIP's text transformer."""

from mmseg_semi.errors import run_tool
from mmseg_semi.zoo.clip_text import main

if __name__ == '__main__':
    run_tool(main)
