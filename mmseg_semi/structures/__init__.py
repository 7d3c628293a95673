"""What flows between the parts of a training step."""

from .pseudo_label import PseudoLabel
from .seg_outputs import SegOutputs
from .semi_step import Mix, SemiStep, StrongView

__all__ = ['Mix', 'PseudoLabel', 'SegOutputs', 'SemiStep', 'StrongView']
