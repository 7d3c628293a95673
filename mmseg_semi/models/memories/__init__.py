"""Memories of features that outlive an iteration."""

from .base_memory import BaseMemory, check_memory, check_stored
from .feature_memory_bank import FeatureMemoryBank
from .negative_queues import ClassPrototypes, NegativeQueues

__all__ = [
    'BaseMemory',
    'ClassPrototypes',
    'FeatureMemoryBank',
    'NegativeQueues',
    'check_memory',
    'check_stored',
]
