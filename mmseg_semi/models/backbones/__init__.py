"""Backbones."""

from .xception65 import Xception65

__all__ = ['Xception65']
