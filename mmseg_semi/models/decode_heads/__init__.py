"""Decode heads."""

from .deeplabv3plus_head import DeepLabV3PlusHead
from .language_guided_head import LanguageGuidedHead
from .unimatch_dpt_head import UniMatchDPTHead

__all__ = ['DeepLabV3PlusHead', 'LanguageGuidedHead', 'UniMatchDPTHead']
