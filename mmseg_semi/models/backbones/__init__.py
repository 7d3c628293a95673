"""Backbones."""

from . import package_files  # noqa: F401  (mmengine reads package:// with it)
from .efficientnet_lite import EfficientNetLite
from .xception65 import Xception65

__all__ = ['EfficientNetLite', 'Xception65']
