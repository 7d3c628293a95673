"""What hooks that look at pseudo-labels share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Optional

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.datasets.audit_masks import AuditMasks
from mmseg_semi.structures import PseudoLabel, SemiStep


class PseudoLabelObserver(Hook):
    """Looks at every ``interval``-th training step; costs nothing in between.

    Args:
        interval: Iterations from one look to the next.
        audit_root: Folder of true masks of the unlabeled images, read by this hook alone. None
            for none.
        audit_suffix: Suffix of these masks.

    Raises:
        ValueError: ``interval`` is no positive number; the model is no ``SemiSegmentor``.
    """

    @checked
    def __init__(
        self,
        interval: Annotated[int, Whole(1)] = 50,
        audit_root: Optional[str] = None,
        audit_suffix: str = '.png',
    ) -> None:
        self.interval = interval
        self.audit_root, self.audit_suffix = audit_root, audit_suffix
        self.audit: Optional[AuditMasks] = None
        self._seen: Optional[dict[str, PseudoLabel]] = None
        self._due = False

    def before_train(self, runner: Any) -> None:
        """Start to observe."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, 'add_observer'):
            raise ValueError(
                f'{type(self).__name__} looks at pseudo-labels, and the model is a plain '
                f'{type(model).__name__} without any: remove the hook from custom_hooks'
            )
        if 'raw' in getattr(model, 'refiners', {}):
            raise ValueError(
                f"{type(self).__name__} calls the teacher's own pseudo-label 'raw', and "
                'model.refiners has a refiner of that name: give it another one'
            )
        if self.audit_root is not None:
            dataset = runner.train_dataloader.dataset
            self.audit = AuditMasks(dataset, self.audit_root, self.audit_suffix)
            if doubt := self.audit.doubt():
                print_log(doubt, logger='current', level=logging.WARNING)
        model.add_observer(self._observe, lambda: self._due)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Decide whether this step is looked at."""
        self._due = (runner.iter + 1) % self.interval == 0
        self._seen = None

    def _observe(self, step: SemiStep) -> None:
        # Only the pseudo-labels: the step holds the graph.
        self._seen = dict(raw=step.raw_pseudo, **step.refined)

    def truth(self, data_batch: Any, size: Sequence[int]) -> Optional[Tensor]:
        """Return the audit masks of the batch (B, H, W), 255 on padding; None without audit."""
        if self.audit is None:
            return None
        return self.audit.load_batch(data_batch['unlabeled'], size)
