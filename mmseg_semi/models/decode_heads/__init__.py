"""Decode heads."""

from .deeplabv3plus_head import DeepLabV3PlusHead
from .unimatch_dpt_head import UniMatchDPTHead

__all__ = ['DeepLabV3PlusHead', 'UniMatchDPTHead']
