"""Pure tensor functions: no config, no registry, no state.

Shape legend: ``B`` images, ``K`` classes, ``H W`` pixels. Masks are bool, labels int64,
probabilities sum to 1 over dim 1, and 255 marks an ignored pixel.
"""

from .confidence import confidence_score, selected_ratio
from .losses import weighted_cross_entropy
from .mixing import cutmix_boxes, mix, mix_partners

__all__ = [
    'confidence_score',
    'cutmix_boxes',
    'mix',
    'mix_partners',
    'selected_ratio',
    'weighted_cross_entropy',
]
