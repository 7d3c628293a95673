"""Mixing of strong views and their pseudo-labels."""

from .base_mixer import BaseMixer
from .cutmix import CutMix

__all__ = ['BaseMixer', 'CutMix']
