"""Prediction with the student, the teacher or both."""

from __future__ import annotations

import copy
from typing import Any, Optional, Union

import torch
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.arguments import check_choice
from mmseg_semi.functional import at_least_float32

PREDICTORS = ('student', 'teacher', 'both')


class PredictorMixin:
    """Answers mmseg's inference calls with the wrapped segmentor or its teacher."""

    segmentor: Any
    teacher: Any
    refiners: Any
    predict_with: str

    def _check_predictor(self, test_cfg: Optional[dict[str, Any]]) -> str:
        if not isinstance(test_cfg, (dict, type(None))):
            raise ValueError(
                "model.test_cfg must be None or dict(predict_with='student' | 'teacher' | 'both', "
                f'refine=False), got {test_cfg!r}'
            )
        test_cfg = dict(test_cfg or {})
        predictor = test_cfg.pop('predict_with', 'student')
        self.refine_at_test = test_cfg.pop('refine', False)
        check_choice('model.test_cfg.refine', self.refine_at_test, (True, False))
        if test_cfg:
            raise ValueError(
                f"model.test_cfg: unknown key(s) {sorted(test_cfg)}; only 'predict_with' and "
                "'refine' belong here, the inference mode is in model.segmentor.test_cfg"
            )
        if self.refine_at_test and not self._test_refiners():
            raise ValueError(
                'model.test_cfg.refine=True, but no refiner of model.refiners changes '
                "probabilities: add one, for example dict(type='NeighborhoodRefiner'), or set "
                'refine=False'
            )
        check_choice('model.test_cfg.predict_with', predictor, PREDICTORS)
        if predictor != 'student' and getattr(self.teacher, 'network', None) is None:
            raise ValueError(
                f'model.test_cfg.predict_with={predictor!r} needs a teacher with a network: set '
                "model.teacher=dict(type='EMATeacher') or predict_with='student'"
            )
        return predictor

    def _test_refiners(self) -> list[Any]:
        return [refiner for refiner in self.refiners.values() if hasattr(refiner, 'refine')]

    @property
    def predictor(self) -> BaseSegmentor:
        """The segmentor whose result is ``pred_sem_seg``."""
        return self.teacher.network if self.predict_with == 'teacher' else self.segmentor

    @property
    def decode_head(self) -> torch.nn.Module:
        """The student's decode head."""
        return self.segmentor.decode_head

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.segmentor.num_classes

    @property
    def out_channels(self) -> int:
        """Number of logit maps; mmseg's test-time augmentation reads it."""
        return self.segmentor.out_channels

    @property
    def align_corners(self) -> bool:
        """How the predicting segmentor resizes its logits."""
        return self.segmentor.align_corners

    def predict(
        self, inputs: Tensor, data_samples: Optional[list[SegDataSample]] = None
    ) -> list[SegDataSample]:
        """Predict as the wrapped segmentor does.

        Args:
            inputs: (B, 3, H, W), normalized.
            data_samples: Their data samples.

        Returns:
            Data samples with ``pred_sem_seg`` and ``seg_logits``, and ``teacher_pred_sem_seg``
            when both predict. With ``test_cfg.refine`` the labels are those of the refined
            probabilities; ``seg_logits`` are the network's.
        """
        if self.predict_with != 'both':
            return self._refined(self.predictor.predict(inputs, data_samples))
        # Inference writes into the samples, so each predictor gets its own.
        own = copy.deepcopy(data_samples)
        results = self._refined(self.segmentor.predict(inputs, data_samples))
        for result, other in zip(results, self._refined(self.teacher.network.predict(inputs, own))):
            result.set_data(dict(teacher_pred_sem_seg=other.pred_sem_seg))
        return results

    def _refined(self, results: list[SegDataSample]) -> list[SegDataSample]:
        if self.refine_at_test:
            for result in results:
                prob = at_least_float32(result.seg_logits.data[None]).softmax(dim=1)
                for refiner in self._test_refiners():
                    prob = refiner.refine(prob)
                result.pred_sem_seg.data = prob.argmax(dim=1)
        return results

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Encode with the predicting segmentor."""
        return self.predictor.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[dict]) -> Tensor:
        """Encode and decode with the predicting segmentor; logits at input size."""
        return self.predictor.encode_decode(inputs, batch_data_samples)

    def _forward(
        self, inputs: Tensor, data_samples: Optional[list[SegDataSample]] = None
    ) -> Union[Tensor, tuple[Tensor, ...]]:
        return self.predictor._forward(inputs, data_samples)
