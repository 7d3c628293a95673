"""What flows between the parts of a training step."""

from .pseudo_label import PseudoLabel
from .semi_step import Features, Mix, Partners, SegOutputs, SemiStep, View

__all__ = ['Features', 'Mix', 'Partners', 'PseudoLabel', 'SegOutputs', 'SemiStep', 'View']
