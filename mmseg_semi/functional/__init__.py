"""Pure tensor functions: no config, no registry, no state.

Shape legend: ``B`` images, ``K`` classes, ``H W`` pixels. Masks are bool, labels int64,
probabilities sum to 1 over dim 1, and 255 marks an ignored pixel.
"""

from .agents import agent_correlation, gather_agents, select_agents
from .boxes import box_agreement, pack_boxes
from .components import masks_to_boxes
from .confidence import (
    class_peaks,
    confidence_score,
    image_confidence,
    instance_confidence,
    mean_of_present,
    peaks_by_class,
    presence_confidence,
    scaled_residual_variance,
    selected_ratio,
    separation_weight,
)
from .contrast import class_ranks, contrast_loss
from .correlation import correlation_map, propagate_pixels, propagate_regions, sample_shapes
from .equalization import class_confidence_sums, equalization_mask, sampling_weights
from .grids import bilinear_at, to_grid
from .losses import at_least_float32, pixel_accuracy, soft_consistency, weighted_cross_entropy
from .memory import push_queues, sample_per_class
from .mixing import cutmix_boxes, mix, mix_features, mix_partners, ratio_boxes
from .neighborhood import refine_neighborhood
from .quantile import pack_scores, quantile_threshold
from .rank_statistics import prototype_similarity, rank_statistics_overlap, top_channels
from .ranking import rank_consistency, rank_log_prob
from .tiles import blended_bands, resized_bands, tile_spans, tile_weights

__all__ = [
    'agent_correlation',
    'at_least_float32',
    'bilinear_at',
    'blended_bands',
    'box_agreement',
    'class_peaks',
    'class_confidence_sums',
    'class_ranks',
    'confidence_score',
    'contrast_loss',
    'equalization_mask',
    'sampling_weights',
    'correlation_map',
    'cutmix_boxes',
    'gather_agents',
    'image_confidence',
    'instance_confidence',
    'masks_to_boxes',
    'mean_of_present',
    'mix',
    'mix_features',
    'mix_partners',
    'pack_boxes',
    'pack_scores',
    'peaks_by_class',
    'pixel_accuracy',
    'presence_confidence',
    'propagate_pixels',
    'propagate_regions',
    'prototype_similarity',
    'push_queues',
    'quantile_threshold',
    'rank_consistency',
    'rank_log_prob',
    'rank_statistics_overlap',
    'ratio_boxes',
    'refine_neighborhood',
    'resized_bands',
    'sample_per_class',
    'sample_shapes',
    'select_agents',
    'scaled_residual_variance',
    'selected_ratio',
    'separation_weight',
    'soft_consistency',
    'tile_spans',
    'tile_weights',
    'to_grid',
    'top_channels',
    'weighted_cross_entropy',
]
