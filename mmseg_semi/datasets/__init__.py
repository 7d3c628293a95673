from mmseg_semi.errors import DataError

from .checks import check_overlap, find_copies
from .coco81_dataset import COCO81Dataset
from .collate import semi_collate
from .listed_files import read_lists_alike
from .lucchi_dataset import LucchiDataset
from .samplers import SemiSampler
from .semi_dataset import SampleKey, SemiDataset
from .transforms import (
    CarryMaps,
    CheckAnnotations,
    InitValidMask,
    LoadChannels,
    PackLabeledInputs,
    PackSemiInputs,
    RandomColorJitter,
    RandomGaussianBlur,
    RandomGray,
    StrongViews,
)
from .unlabeled_dataset import ImageFolder, UnlabeledDataset

read_lists_alike()

__all__ = [
    'COCO81Dataset',
    'CarryMaps',
    'CheckAnnotations',
    'DataError',
    'InitValidMask',
    'LoadChannels',
    'LucchiDataset',
    'PackLabeledInputs',
    'PackSemiInputs',
    'RandomColorJitter',
    'RandomGaussianBlur',
    'RandomGray',
    'SampleKey',
    'SemiDataset',
    'SemiSampler',
    'StrongViews',
    'ImageFolder',
    'UnlabeledDataset',
    'check_overlap',
    'find_copies',
    'semi_collate',
]
