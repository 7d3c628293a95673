"""Training-only heads beside the segmentor."""

from .base_semi_head import BaseSemiHead
from .correlation_head import CorrelationHead

__all__ = ['BaseSemiHead', 'CorrelationHead']
