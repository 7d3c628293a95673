"""Semi-supervised wrappers around mmseg segmentors."""

from .building import is_semi
from .semi_segmentor import SemiSegmentor
from .sliding_encoder_decoder import SlidingEncoderDecoder

__all__ = ['SemiSegmentor', 'SlidingEncoderDecoder', 'is_semi']
