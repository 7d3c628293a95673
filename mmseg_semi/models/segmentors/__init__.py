"""Semi-supervised wrappers around mmseg segmentors."""

from .semi_segmentor import SemiSegmentor

__all__ = ['SemiSegmentor']
