"""Filling of banks of images, and loading of images from them."""

from __future__ import annotations

from typing import Any

from mmseg.registry import HOOKS

from mmseg_semi.datasets.partner_loader import PartnerLoader
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.models.mixers import ClassAwareCutMix

from .state_hook import StateHook


@HOOKS.register_module()
class ImageBankHook(StateHook):
    """Move the bank of ``ClassAwareCutMix`` after each iteration and load images for it.

    The bank gets a row for each unlabeled image when training begins: an empty one, or with
    ``resume`` the checkpoint's. Images are decoded and augmented in the main process.

    Raises:
        ValueError: The training data are no ``SemiDataset``; the checkpoint's bank is of another
            number of images.
    """

    kind = ClassAwareCutMix

    def find(self, model: Any) -> list[Any]:
        """Return the mixers that load images."""
        return [mixer for mixer in super().find(model) if mixer.extra_loads]

    def begin(self, runner: Any, model: Any) -> None:
        """Make the banks fit the data."""
        dataset = runner.train_dataloader.dataset
        if not isinstance(dataset, SemiDataset):
            raise ValueError(
                'ImageBankHook loads images of a SemiDataset, but train_dataloader.dataset is a '
                f"{type(dataset).__name__}: set its type='SemiDataset', or "
                'ClassAwareCutMix.extra_loads=False'
            )
        for mixer in self.parts:
            mixer.set_bank_size(len(dataset.unlabeled), keep=runner.iter > 0)
        model.partner_source = PartnerLoader(dataset)
        self.model = model

    def after_train(self, runner: Any) -> None:
        """Let go of the data."""
        if self.parts:
            self.model.partner_source = None
