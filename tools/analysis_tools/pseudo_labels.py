#!/usr/bin/env python
"""Measure what the pseudo-labels of a trained model are worth, by true masks."""

from mmseg_semi.analysis.pseudo_labels import main
from mmseg_semi.errors import run_tool

if __name__ == '__main__':
    run_tool(main)
