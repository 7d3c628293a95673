"""Training-only heads beside the segmentor."""

from .base_semi_head import BaseSemiHead

__all__ = ['BaseSemiHead']
