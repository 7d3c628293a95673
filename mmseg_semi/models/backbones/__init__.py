"""Backbones."""

from . import package_files  # noqa: F401  (mmengine reads package:// with it)
from .dinov2 import DINOv2
from .efficientnet_lite import EfficientNetLite
from .hf_backbone import HFBackbone
from .xception65 import Xception65

__all__ = ['DINOv2', 'EfficientNetLite', 'HFBackbone', 'Xception65']
