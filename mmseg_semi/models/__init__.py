"""Segmentors, refiners, mixers, perturbations, heads and losses of semi-supervised training."""

from .data_preprocessors import SemiDataPreprocessor
from .heads import AgentRankHead, BaseSemiHead, ClassConfidence, ContrastHead, CorrelationHead
from .losses import BaseSemiLoss, PseudoLabelCrossEntropy, SoftConsistencyLoss
from .memories import BaseMemory, FeatureMemoryBank, NegativeQueues
from .mixers import AdaptiveCutMix, BaseLabeledMixer, BaseMixer, ClassAwareCutMix, CopyPaste, CutMix
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
    'AdaptiveCutMix',
    'AgentRankHead',
    'BaseLabeledMixer',
    'BaseMemory',
    'BaseMixer',
    'BasePerturbation',
    'BaseRefiner',
    'BaseSemiHead',
    'BaseSemiLoss',
    'ClassAwareCutMix',
    'ClassConfidence',
    'ConfidenceThreshold',
    'ContrastHead',
    'CopyPaste',
    'CorrelationHead',
    'CutMix',
    'DetectionAgreement',
    'EMAThreshold',
    'FeatureDropout',
    'FeatureMemoryBank',
    'NegativeQueues',
    'NeighborhoodRefiner',
    'PseudoLabelCrossEntropy',
    'QuantileThreshold',
    'RankStatisticsWeight',
    'RegionPropagation',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'SoftConsistencyLoss',
]
