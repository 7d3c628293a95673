"""Backbones."""

from . import package_files  # noqa: F401  (mmengine reads package:// with it)
from .clip_vision_transformer import CLIPVisionTransformer
from .dinov2 import DINOv2
from .efficientnet_lite import EfficientNetLite
from .hf_backbone import HFBackbone
from .xception65 import Xception65

__all__ = ['CLIPVisionTransformer', 'DINOv2', 'EfficientNetLite', 'HFBackbone', 'Xception65']
