#!/usr/bin/env python
"""Ask the true masks of unlabeled images what the detector's agreement is worth."""

import sys

from mmseg_semi.analysis.detector_agreement import main

if __name__ == '__main__':
    sys.exit(main())
