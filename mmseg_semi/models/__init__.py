"""Segmentors, refiners, mixers, perturbations, heads and losses of semi-supervised training."""

from .data_preprocessors import SemiDataPreprocessor
from .heads import BaseSemiHead
from .losses import BaseSemiLoss, PseudoLabelCrossEntropy
from .mixers import BaseMixer, CutMix
from .perturbations import BasePerturbation, FeatureDropout
from .refiners import BaseRefiner, ConfidenceThreshold
from .segmentors import SemiSegmentor

__all__ = [
    'BaseMixer',
    'BasePerturbation',
    'BaseRefiner',
    'BaseSemiHead',
    'BaseSemiLoss',
    'ConfidenceThreshold',
    'CutMix',
    'FeatureDropout',
    'PseudoLabelCrossEntropy',
    'SemiDataPreprocessor',
    'SemiSegmentor',
]
