"""Semi-supervised wrappers around mmseg segmentors."""

from .building import is_semi
from .patch_encoder_decoder import PatchEncoderDecoder
from .semi_segmentor import SemiSegmentor
from .sliding_encoder_decoder import SlidingEncoderDecoder

__all__ = ['PatchEncoderDecoder', 'SemiSegmentor', 'SlidingEncoderDecoder', 'is_semi']
