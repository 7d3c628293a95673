"""Loading of labeled images besides the batch."""

from __future__ import annotations

from typing import Any, Optional

from mmseg.registry import HOOKS

from mmseg_semi.datasets.partner_loader import LabeledLoader
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.models.mixers import CopyPaste

from .state_hook import StateHook


@HOOKS.register_module()
class LabeledSourceHook(StateHook):
    """Load labeled images for ``CopyPaste(source='dataset')``, in the main process.

    Raises:
        ValueError: The training data are no ``SemiDataset``, or without the resize that
            ``CopyPaste.scale`` replaces.
    """

    kind = CopyPaste

    def find(self, model: Any) -> list[Any]:
        """Return the mixers that load images."""
        return [mixer for mixer in super().find(model) if mixer.source == 'dataset']

    def begin(self, runner: Any, model: Any) -> None:
        """Give the mixers the data."""
        dataset = runner.train_dataloader.dataset
        if not isinstance(dataset, SemiDataset):
            raise ValueError(
                'LabeledSourceHook loads images of a SemiDataset, but train_dataloader.dataset is '
                f"a {type(dataset).__name__}: set its type='SemiDataset', or "
                "CopyPaste.source='batch'"
            )
        for mixer in self.parts:
            mixer.loader = LabeledLoader(dataset, mixer.scale)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Do nothing: there is no state."""

    def after_train(self, runner: Any) -> None:
        """Let go of the data."""
        for mixer in self.parts:
            mixer.loader = None
