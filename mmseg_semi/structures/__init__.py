"""What flows between the parts of a training step."""

from .pseudo_label import DETECTIONS, PseudoLabel
from .seg_outputs import SegOutputs
from .semi_step import Mix, SemiStep, StrongView

__all__ = ['DETECTIONS', 'Mix', 'PseudoLabel', 'SegOutputs', 'SemiStep', 'StrongView']
