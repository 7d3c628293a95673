"""What flows between the parts of a training step."""

from .step import STEPS, Features, Mix, Partners, PseudoLabel, SegOutputs, SemiStep, View

__all__ = [
    'STEPS',
    'Features',
    'Mix',
    'Partners',
    'PseudoLabel',
    'SegOutputs',
    'SemiStep',
    'View',
]
