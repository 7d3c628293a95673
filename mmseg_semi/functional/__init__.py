"""Pure tensor functions: no config, no registry, no state.

Shape legend: ``B`` images, ``K`` classes, ``H W`` pixels. Masks are bool, labels int64,
probabilities sum to 1 over dim 1, and 255 marks an ignored pixel.
"""

from .confidence import confidence_score, selected_ratio
from .correlation import correlation_map, propagate_pixels, sample_shapes
from .losses import soft_consistency, weighted_cross_entropy
from .mixing import cutmix_boxes, mix, mix_partners
from .regions import propagate_regions
from .thresholds import class_peaks, mean_of_present, peaks_by_class, presence_confidence

__all__ = [
    'class_peaks',
    'confidence_score',
    'correlation_map',
    'cutmix_boxes',
    'mean_of_present',
    'mix',
    'mix_partners',
    'peaks_by_class',
    'presence_confidence',
    'propagate_pixels',
    'propagate_regions',
    'sample_shapes',
    'selected_ratio',
    'soft_consistency',
    'weighted_cross_entropy',
]
