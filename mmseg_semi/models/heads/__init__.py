"""Training-only heads beside the segmentor."""

from .agent_rank_head import AgentRankHead
from .base_semi_head import BaseSemiHead
from .correlation_head import CorrelationHead

__all__ = ['AgentRankHead', 'BaseSemiHead', 'CorrelationHead']
