"""IoU of the teacher beside that of the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class TeacherIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` on ``teacher_pred_sem_seg``.

    For ``model.test_cfg=dict(predict_with='both')``; list it beside ``IoUMetric`` in the
    evaluator.

    Args:
        prefix: Prefix of the metric's names.
        **kwargs: Arguments of ``IoUMetric``.

    Raises:
        KeyError: The model does not predict with both.
    """

    def __init__(self, prefix: Optional[str] = 'teacher', **kwargs: Any) -> None:
        super().__init__(prefix=prefix, **kwargs)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Evaluate the teacher's prediction.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``teacher_pred_sem_seg`` and ``gt_sem_seg``.
        """
        for sample in data_samples:
            if 'teacher_pred_sem_seg' not in sample:
                raise KeyError(
                    'TeacherIoUMetric needs predictions of the teacher: set '
                    "model.test_cfg=dict(predict_with='both') or remove it from the evaluator"
                )
        own = [{**s, 'pred_sem_seg': s['teacher_pred_sem_seg']} for s in data_samples]
        super().process(data_batch, own)
