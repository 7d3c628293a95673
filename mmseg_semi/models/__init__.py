"""Segmentors, refiners, mixers, perturbations, heads and losses of semi-supervised training."""

from .data_preprocessors import SemiDataPreprocessor
from .heads import BaseSemiHead, CorrelationHead
from .losses import BaseSemiLoss, PseudoLabelCrossEntropy, SoftConsistencyLoss
from .mixers import BaseMixer, CutMix
from .perturbations import BasePerturbation, FeatureDropout
from .refiners import BaseRefiner, ConfidenceThreshold, EMAThreshold, RegionPropagation
from .segmentors import SemiSegmentor

__all__ = [
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
    'PseudoLabelCrossEntropy',
    'RegionPropagation',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'SoftConsistencyLoss',
]
