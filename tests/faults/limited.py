"""tools/train.py on a disk that is almost full: no file may grow beyond FILE_SIZE bytes."""

from __future__ import annotations

import os
import resource
import runpy
import signal
import sys
from pathlib import Path

if __name__ == '__main__':
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error instead, as of a full disk
    size = int(os.environ['FILE_SIZE'])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    sys.argv[0] = str(Path(__file__).parents[2] / 'tools' / 'train.py')
    runpy.run_path(sys.argv[0], run_name='__main__')
