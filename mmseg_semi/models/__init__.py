"""Segmentors, refiners, mixers, perturbations, heads and losses of semi-supervised training."""

from .data_preprocessors import SemiDataPreprocessor
from .heads import AgentRankHead, BaseSemiHead, CorrelationHead
from .losses import BaseSemiLoss, PseudoLabelCrossEntropy, SoftConsistencyLoss
from .memories import FeatureMemoryBank
from .mixers import BaseMixer, CutMix
from .perturbations import BasePerturbation, FeatureDropout
from .refiners import (
    BaseRefiner,
    ConfidenceThreshold,
    DetectionAgreement,
    EMAThreshold,
    NeighborhoodRefiner,
    QuantileThreshold,
    RankStatisticsWeight,
    RegionPropagation,
)
from .segmentors import SemiSegmentor

__all__ = [
    'AgentRankHead',
    'BaseMixer',
    'BasePerturbation',
    'BaseRefiner',
    'BaseSemiHead',
    'BaseSemiLoss',
    'ConfidenceThreshold',
    'CorrelationHead',
    'CutMix',
    'DetectionAgreement',
    'EMAThreshold',
    'FeatureDropout',
    'FeatureMemoryBank',
    'NeighborhoodRefiner',
    'PseudoLabelCrossEntropy',
    'QuantileThreshold',
    'RankStatisticsWeight',
    'RegionPropagation',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'SoftConsistencyLoss',
]
