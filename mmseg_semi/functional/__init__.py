"""Pure tensor functions: no config, no registry, no state.

Shape legend: ``B`` images, ``K`` classes, ``H W`` pixels. Masks are bool, labels int64,
probabilities sum to 1 over dim 1, and 255 marks an ignored pixel.
"""

from .agents import agent_correlation, gather_agents, select_agents
from .confidence import confidence_score, selected_ratio
from .correlation import correlation_map, propagate_pixels, sample_shapes
from .losses import soft_consistency, weighted_cross_entropy
from .mixing import cutmix_boxes, mix, mix_features, mix_partners
from .neighborhood import refine_neighborhood
from .quantile import pack_scores, quantile_threshold
from .ranking import rank_consistency, rank_log_prob
from .regions import propagate_regions
from .thresholds import class_peaks, mean_of_present, peaks_by_class, presence_confidence

__all__ = [
    'agent_correlation',
    'class_peaks',
    'confidence_score',
    'correlation_map',
    'cutmix_boxes',
    'gather_agents',
    'mean_of_present',
    'mix',
    'mix_features',
    'mix_partners',
    'pack_scores',
    'peaks_by_class',
    'presence_confidence',
    'propagate_pixels',
    'propagate_regions',
    'quantile_threshold',
    'rank_consistency',
    'rank_log_prob',
    'refine_neighborhood',
    'sample_shapes',
    'select_agents',
    'selected_ratio',
    'soft_consistency',
    'weighted_cross_entropy',
]
