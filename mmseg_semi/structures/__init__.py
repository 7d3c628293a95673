"""What flows between the parts of a training step."""

from .step import Features, Mix, Partners, PseudoLabel, SegOutputs, SemiStep, View

__all__ = ['Features', 'Mix', 'Partners', 'PseudoLabel', 'SegOutputs', 'SemiStep', 'View']
