"""Memories of features and weights that outlive an iteration."""

from .base_memory import BaseMemory, check_memory, check_stored
from .feature_memory_bank import FeatureMemoryBank
from .negative_queues import ClassPrototypes, NegativeQueues
from .snapshots import Snapshots

__all__ = [
    'BaseMemory',
    'ClassPrototypes',
    'FeatureMemoryBank',
    'NegativeQueues',
    'Snapshots',
    'check_memory',
    'check_stored',
]
