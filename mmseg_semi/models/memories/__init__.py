"""Memories of features that outlive an iteration."""

from .feature_memory_bank import FeatureMemoryBank

__all__ = ['FeatureMemoryBank']
