"""What flows between the parts of a training step."""

from .channel_statistics import REMEDY, ChannelStatistics, read_statistics, write_statistics
from .step import STEPS, Features, Mix, Partners, PseudoLabel, SegOutputs, SemiStep, View

__all__ = [
    'REMEDY',
    'STEPS',
    'ChannelStatistics',
    'Features',
    'Mix',
    'Partners',
    'PseudoLabel',
    'SegOutputs',
    'SemiStep',
    'View',
    'read_statistics',
    'write_statistics',
]
