"""Perturbations of the features between encoder and decoder."""

from .base_perturbation import BasePerturbation
from .feature_dropout import FeatureDropout

__all__ = ['BasePerturbation', 'FeatureDropout']
