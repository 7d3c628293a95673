"""Networks that label the unlabeled images and are not trained themselves."""

from .base_teacher import BaseTeacher
from .ema_teacher import EMATeacher

__all__ = ['BaseTeacher', 'EMATeacher']
