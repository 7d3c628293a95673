"""Hooks decide when state moves; the modules own the state."""

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .data_check_hook import DataCheckHook
from .mean_teacher_hook import MeanTeacherHook

__all__ = ['AtomicCheckpointHook', 'DataCheckHook', 'MeanTeacherHook']
