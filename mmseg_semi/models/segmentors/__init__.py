"""Semi-supervised wrappers around mmseg segmentors."""

from .semi_segmentor import SemiSegmentor
from .sliding_encoder_decoder import SlidingEncoderDecoder

__all__ = ['SemiSegmentor', 'SlidingEncoderDecoder']
