from .carry_maps import CarryMaps
from .check_annotations import CheckAnnotations
from .class_balanced_crop import ClassBalancedCrop
from .init_valid_mask import InitValidMask
from .load_channels import LoadChannels
from .pack_semi_inputs import PackLabeledInputs, PackSemiInputs
from .random_color_jitter import RandomColorJitter
from .random_gaussian_blur import RandomGaussianBlur
from .random_gray import RandomGray
from .random_intensity_augment import RandomIntensityAugment
from .random_padded_crop import RandomPaddedCrop
from .random_relative_resize import RandomRelativeResize
from .strong_views import StrongViews

__all__ = [
    'CarryMaps',
    'CheckAnnotations',
    'ClassBalancedCrop',
    'InitValidMask',
    'LoadChannels',
    'PackLabeledInputs',
    'PackSemiInputs',
    'RandomColorJitter',
    'RandomGaussianBlur',
    'RandomGray',
    'RandomIntensityAugment',
    'RandomPaddedCrop',
    'RandomRelativeResize',
    'StrongViews',
]
