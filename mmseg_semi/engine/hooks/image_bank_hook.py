"""Filling of banks of images, and loading of images from them."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS

from mmseg_semi.datasets.semi_dataset import SampleKey, SemiDataset
from mmseg_semi.models.mixers import ClassAwareCutMix

from .state_hook import refuse_second


@HOOKS.register_module()
class ImageBankHook(Hook):
    """Move the bank of ``ClassAwareCutMix`` after each iteration and load images for it.

    The bank gets a row for each unlabeled image when training begins: an empty one, or with
    ``resume`` the checkpoint's. Images are decoded and augmented in the main process.

    Raises:
        ValueError: The model has no ``ClassAwareCutMix`` with a bank; the training data are no
            ``SemiDataset``; the checkpoint's bank is of another number of images.
    """

    priority = 'ABOVE_NORMAL'  # before checkpoints are written

    def before_train(self, runner: Any) -> None:
        """Find the mixer and make its bank fit the data."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        mixer = getattr(model, 'mixer', None)
        if not isinstance(mixer, ClassAwareCutMix) or not mixer.extra_loads:
            raise ValueError(
                'ImageBankHook needs a ClassAwareCutMix that loads images: set '
                "model.mixer=dict(type='ClassAwareCutMix') or remove the hook from custom_hooks"
            )
        refuse_second(self, runner)
        dataset = runner.train_dataloader.dataset
        if not isinstance(dataset, SemiDataset):
            raise ValueError(
                'ImageBankHook loads images of a SemiDataset, but train_dataloader.dataset is a '
                f"{type(dataset).__name__}: set its type='SemiDataset', or "
                'ClassAwareCutMix.extra_loads=False without this hook'
            )
        mixer.set_bank_size(len(dataset.unlabeled), keep=runner.iter > 0)
        mixer.fetch = lambda index, seed: dataset[SampleKey('unlabeled', index, seed)]
        self.mixer = mixer
        model.hook_attached(type(self).__name__)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Update the bank."""
        self.mixer.update_state()

    def after_train(self, runner: Any) -> None:
        """Let go of the data."""
        self.mixer.fetch = None
