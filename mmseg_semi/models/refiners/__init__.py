"""Components that change a pseudo-label before it is mixed and trained with."""

from .base_refiner import STAGES, BaseRefiner
from .confidence_threshold import ConfidenceThreshold
from .detection_agreement import DetectionAgreement
from .ema_threshold import EMAThreshold
from .labeled_statistics import DistributionAlignment, GaussianThreshold, LabeledStatistics
from .neighborhood_refiner import NeighborhoodRefiner
from .quantile_threshold import QuantileThreshold
from .rank_statistics_weight import RankStatisticsWeight
from .region_propagation import RegionPropagation
from .separation_weight import SeparationWeight

__all__ = [
    'STAGES',
    'BaseRefiner',
    'ConfidenceThreshold',
    'DetectionAgreement',
    'DistributionAlignment',
    'EMAThreshold',
    'GaussianThreshold',
    'LabeledStatistics',
    'NeighborhoodRefiner',
    'QuantileThreshold',
    'RankStatisticsWeight',
    'RegionPropagation',
    'SeparationWeight',
]
