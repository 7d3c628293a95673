"""Hooks decide when state moves; the modules own the state."""

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .class_confidence_hook import ClassConfidenceHook
from .class_weight_hook import ClassWeightHook
from .clip_guidance_hook import CLIPGuidanceHook
from .data_check_hook import DataCheckHook
from .ema_threshold_hook import EMAThresholdHook
from .image_bank_hook import ImageBankHook
from .labeled_source_hook import LabeledSourceHook
from .labeled_statistics_hook import LabeledStatisticsHook
from .mean_teacher_hook import MeanTeacherHook
from .memory_bank_hook import MemoryBankHook
from .prediction_picture_hook import PredictionPictureHook
from .prediction_writer_hook import PredictionWriterHook
from .pseudo_label_progress_hook import PseudoLabelProgressHook
from .pseudo_label_stats_hook import PseudoLabelStatsHook
from .pseudo_label_vis_hook import PseudoLabelVisHook
from .run_record_hook import RunRecordHook
from .snapshot_hook import SnapshotHook
from .state_hook import StateHook
from .training_monitor_hook import TrainingMonitorHook

__all__ = [
    'AtomicCheckpointHook',
    'CLIPGuidanceHook',
    'ClassConfidenceHook',
    'ClassWeightHook',
    'DataCheckHook',
    'EMAThresholdHook',
    'ImageBankHook',
    'LabeledSourceHook',
    'LabeledStatisticsHook',
    'MeanTeacherHook',
    'MemoryBankHook',
    'PredictionPictureHook',
    'PredictionWriterHook',
    'PseudoLabelProgressHook',
    'PseudoLabelStatsHook',
    'PseudoLabelVisHook',
    'RunRecordHook',
    'SnapshotHook',
    'StateHook',
    'TrainingMonitorHook',
]
