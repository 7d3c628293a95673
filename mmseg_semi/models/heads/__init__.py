"""Training-only heads beside the segmentor."""

from .agent_rank_head import AgentRankHead
from .base_semi_head import BaseSemiHead
from .class_confidence import ClassConfidence
from .clip_guidance import CLIPGuidance
from .contrast_head import ContrastHead
from .correlation_head import CorrelationHead
from .previous_guidance import PreviousGuidance

__all__ = [
    'AgentRankHead',
    'BaseSemiHead',
    'CLIPGuidance',
    'ClassConfidence',
    'ContrastHead',
    'CorrelationHead',
    'PreviousGuidance',
]
