"""Segmentors, refiners, mixers, perturbations, heads and losses of semi-supervised training."""

from .backbones import CLIPVisionTransformer, DINOv2, EfficientNetLite, HFBackbone, Xception65
from .data_preprocessors import SemiDataPreprocessor
from .decode_heads import DeepLabV3PlusHead, LanguageGuidedHead, UniMatchDPTHead
from .heads import AgentRankHead, BaseSemiHead, ClassConfidence, ContrastHead, CorrelationHead
from .losses import BaseSemiLoss, PseudoLabelCrossEntropy, SoftConsistencyLoss
from .memories import BaseMemory, FeatureMemoryBank, NegativeQueues
from .mixers import AdaptiveCutMix, BaseLabeledMixer, BaseMixer, ClassAwareCutMix, CopyPaste, CutMix
from .perturbations import BasePerturbation, FeatureDropout
from .refiners import (
    BaseRefiner,
    ConfidenceThreshold,
    DetectionAgreement,
    DistributionAlignment,
    EMAThreshold,
    GaussianThreshold,
    NeighborhoodRefiner,
    QuantileThreshold,
    RankStatisticsWeight,
    RegionPropagation,
)
from .samplers import MeanOHEMPixelSampler
from .segmentors import PatchEncoderDecoder, SemiSegmentor, SlidingEncoderDecoder
from .teachers import BaseTeacher, EMATeacher

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
    'BaseTeacher',
    'ClassAwareCutMix',
    'ClassConfidence',
    'ConfidenceThreshold',
    'ContrastHead',
    'CopyPaste',
    'CorrelationHead',
    'CutMix',
    'CLIPVisionTransformer',
    'DINOv2',
    'DeepLabV3PlusHead',
    'DetectionAgreement',
    'DistributionAlignment',
    'EMATeacher',
    'EMAThreshold',
    'EfficientNetLite',
    'FeatureDropout',
    'FeatureMemoryBank',
    'GaussianThreshold',
    'HFBackbone',
    'LanguageGuidedHead',
    'MeanOHEMPixelSampler',
    'NegativeQueues',
    'NeighborhoodRefiner',
    'PatchEncoderDecoder',
    'PseudoLabelCrossEntropy',
    'QuantileThreshold',
    'RankStatisticsWeight',
    'RegionPropagation',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'SlidingEncoderDecoder',
    'SoftConsistencyLoss',
    'UniMatchDPTHead',
    'Xception65',
]
