"""Everything is in ``pyproject.toml``; OpenMMLab's tools look for this file."""

from setuptools import setup

setup()
