"""Mixing of strong views and their pseudo-labels."""

from .adaptive_cutmix import AdaptiveCutMix
from .base_labeled_mixer import BaseLabeledMixer
from .base_mixer import BaseMixer
from .class_aware_cutmix import ClassAwareCutMix
from .copy_paste import CopyPaste
from .cutmix import CutMix

__all__ = [
    'AdaptiveCutMix',
    'BaseLabeledMixer',
    'BaseMixer',
    'ClassAwareCutMix',
    'CopyPaste',
    'CutMix',
]
