from .checks import check_overlap, find_copies
from .collate import semi_collate
from .errors import DataError
from .samplers import SemiSampler
from .semi_dataset import SampleKey, SemiDataset
from .transforms import (
    CheckAnnotations,
    InitValidMask,
    PackSemiInputs,
    RandomColorJitter,
    RandomGaussianBlur,
    RandomGray,
    StrongViews,
)
from .unlabeled_dataset import UnlabeledDataset

__all__ = [
    'CheckAnnotations',
    'DataError',
    'InitValidMask',
    'PackSemiInputs',
    'RandomColorJitter',
    'RandomGaussianBlur',
    'RandomGray',
    'SampleKey',
    'SemiDataset',
    'SemiSampler',
    'StrongViews',
    'UnlabeledDataset',
    'check_overlap',
    'find_copies',
    'semi_collate',
]
