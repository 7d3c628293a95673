#!/usr/bin/env python
"""Ask the true masks of unlabeled images what the detector's agreement is worth."""

from mmseg_semi.analysis.detector_agreement import main
from mmseg_semi.errors import run_tool

if __name__ == '__main__':
    run_tool(main)
