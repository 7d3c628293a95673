"""Losses on unlabeled images."""

from .base_semi_loss import BaseSemiLoss
from .pseudo_label_cross_entropy import PseudoLabelCrossEntropy
from .soft_consistency_loss import SoftConsistencyLoss

__all__ = ['BaseSemiLoss', 'PseudoLabelCrossEntropy', 'SoftConsistencyLoss']
