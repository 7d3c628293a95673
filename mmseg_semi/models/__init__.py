"""Segmentors, refiners, mixers, perturbations, heads and losses of semi-supervised training."""

from .data_preprocessors import SemiDataPreprocessor
from .heads import AgentRankHead, BaseSemiHead, CorrelationHead
from .losses import BaseSemiLoss, PseudoLabelCrossEntropy, SoftConsistencyLoss
from .mixers import BaseMixer, CutMix
from .perturbations import BasePerturbation, FeatureDropout
from .refiners import (
    BaseRefiner,
    ConfidenceThreshold,
    EMAThreshold,
    NeighborhoodRefiner,
    QuantileThreshold,
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
    'EMAThreshold',
    'FeatureDropout',
    'NeighborhoodRefiner',
    'PseudoLabelCrossEntropy',
    'QuantileThreshold',
    'RegionPropagation',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'SoftConsistencyLoss',
]
