"""Hooks decide when state moves; the modules own the state."""

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .data_check_hook import DataCheckHook
from .ema_threshold_hook import EMAThresholdHook
from .mean_teacher_hook import MeanTeacherHook
from .memory_bank_hook import MemoryBankHook
from .pseudo_label_stats_hook import PseudoLabelStatsHook
from .pseudo_label_vis_hook import PseudoLabelVisHook

__all__ = [
    'AtomicCheckpointHook',
    'DataCheckHook',
    'EMAThresholdHook',
    'MeanTeacherHook',
    'MemoryBankHook',
    'PseudoLabelStatsHook',
    'PseudoLabelVisHook',
]
