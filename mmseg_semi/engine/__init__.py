"""Training loop, optimizer wrapper and hooks."""

from . import unfollowed  # noqa: F401
from .hooks import *  # noqa: F401,F403
from .optim_wrappers import CPUAmpOptimWrapper
from .semi_train_loop import SemiTrainLoop

__all__ = ['CPUAmpOptimWrapper', 'SemiTrainLoop']
