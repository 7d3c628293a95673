#!/usr/bin/env python
"""Train a config, with or without unlabeled images, or a detector of mmdet."""

from mmseg_semi_cli import run_tool

if __name__ == '__main__':
    run_tool('mmseg_semi.apis.train')
