"""What a ``SemiSegmentor`` knows of the run that it is trained in."""

from __future__ import annotations

import logging
from typing import Any, Callable, NoReturn, Optional

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmseg_semi.models.component import Component
from mmseg_semi.structures import Partners, SemiStep

from . import building
from .streams import Stream

Observer = tuple[Callable[[SemiStep], None], Callable[[], bool]]


class RunStateMixin:
    """Progress, hooks, observers and the batch of a ``SemiSegmentor``."""

    segmentor: Any
    teacher: Any
    data_preprocessor: Any
    components: list[Component]
    streams: dict[str, Stream]
    warmup_iters: int
    warmup_epochs: int

    progress: Optional[tuple[int, int]] = None
    iters_per_epoch = 0
    batch_checked = False
    #: ``partner_source(places, seeds)`` loads further unlabeled images as a collated batch.
    partner_source: Optional[Callable[[list[int], list[int]], dict[str, Any]]] = None

    def init_run_state(self) -> None:
        """Begin without a run."""
        self.image_names: list[str] = []
        self.observers: list[Observer] = []
        self._hooks_seen: list[Any] = []

    # ---------------------------------------------------------------- the batch

    def check_first_batch(self, step: SemiStep) -> None:
        """Refuse a run whose hooks, progress or batches are not what the components need."""
        missing = building.needed_hooks(self, self._hooks_seen)
        if missing:
            raise RuntimeError(
                f'the model has state that only {missing[0]["type"]} moves, and the run has no '
                f"such hook: train with train_cfg=dict(type='SemiTrainLoop', ...), which "
                f'registers it, or add {missing[0]} to custom_hooks'
            )
        self._check_progress()
        self._check_strong_views(len(step.strong_images))
        for part in self.components:
            part.check_batch(step)
        self._warn_of_maps(step)
        self.batch_checked = True

    def _check_strong_views(self, number: int) -> None:
        for stream in self.streams.values():
            if stream.views not in (None, number):
                raise ValueError(
                    f'model.streams.{stream.name}.views is {stream.views}, as the method has it, '
                    f'but the batch has {number} strong views: set train_dataloader.dataset.'
                    f'unlabeled.strong.num_views={stream.views}, or model.streams.{stream.name}.'
                    f'views={number} to train so all the same'
                )
            source = self.streams[stream.features] if stream.features else stream
            readers = [part for part in self.components if part.stream == stream.name]
            if source.images != 'strong' or number > (source.view or 0):
                continue
            if readers or source.view is not None:
                who = [f'{one.config_key} ({type(one).__name__}) reads stream' for one in readers]
                raise ValueError(
                    f"{(who or ['model.streams has'])[0]} '{stream.name}', but the batch has "
                    f'{number} strong views: set train_dataloader.dataset.unlabeled.'
                    f'strong=dict(num_views=..., transforms=...) to at least '
                    f'{(source.view or 0) + 1}'
                )

    def _warn_of_maps(self, step: SemiStep) -> None:
        read = {name for part in self.components for name in part.reads_maps}
        for name in step.maps.keys() - read:
            print_log(
                f"the unlabeled images have the map '{name}', but no component reads it: add the "
                f'component that does, or take train_dataloader.dataset.unlabeled.{name} out',
                logger='current',
                level=logging.WARNING,
            )

    @torch.no_grad()
    def load_partners(self, step: SemiStep, places: list[int]) -> Partners:
        """Load further unlabeled images, augmented anew.

        Args:
            step: The training step.
            places: Their places among all unlabeled images.
        """
        seeds = torch.randint(2**63 - 1, (len(places),)).tolist()
        assert self.partner_source is not None  # begin_step gives nobody this method without it
        batch = self.data_preprocessor.cast_data(self.partner_source(places, seeds))
        size = tuple(step.weak_images.shape[-2:])
        images = self.data_preprocessor.prepare_unlabeled(batch, size)
        metas = [sample.metainfo for sample in batch['data_samples']]
        found = torch.tensor([meta['sample_index'] for meta in metas], device=step.valid.device)
        maps = {name: images['maps'][name] for name in step.maps}
        return Partners(images['weak'], images['strong'], images['valid'], found, maps)

    def stop_at(self, log_vars: dict[str, Tensor]) -> NoReturn:
        """Raise FloatingPointError that names the losses that are not finite, and the images."""
        bad = [f'{k}={float(v):g}' for k, v in log_vars.items() if not torch.isfinite(v)]
        raise FloatingPointError(
            f'loss is not finite: {", ".join(bad)}. Images of this batch: '
            f'{", ".join(self.image_names)}. The weights were not updated and the last checkpoint '
            'is kept; lower the learning rate, clip gradients (optim_wrapper.clip_grad) or look '
            'at these images.'
        )

    # ---------------------------------------------------------------- the run

    def set_progress(self, iteration: int, max_iters: int, iters_per_epoch: int = 0) -> None:
        """Tell the model where the run is; ``SemiTrainLoop`` does it before each iteration.

        Args:
            iteration: Iterations done so far.
            max_iters: Iterations of the whole run.
            iters_per_epoch: Iterations of one pass over the unlabeled images.
        """
        self.progress = (iteration, max_iters)
        self.iters_per_epoch = iters_per_epoch

    def _check_progress(self) -> None:
        for name in ('warmup_iters', 'warmup_epochs'):
            if self.progress is None and getattr(self, name):
                raise RuntimeError(
                    f'model.{name}={getattr(self, name)} needs to know the iteration: train '
                    "with train_cfg=dict(type='SemiTrainLoop', ...)"
                )
        if self.warmup_epochs and self.iters_per_epoch < 1:
            raise RuntimeError(
                f'model.warmup_epochs={self.warmup_epochs} needs to know how long an epoch is: '
                'give set_progress the iterations of one pass over the unlabeled images, or use '
                'warmup_iters'
            )

    def hook_attached(self, hook: Any) -> None:
        """Tell the model that ``hook`` moves its state in this run."""
        self._hooks_seen.append(hook)

    def add_observer(
        self, observe: Callable[[SemiStep], None], due: Callable[[], bool] = lambda: True
    ) -> None:
        """Show the finished step of training iterations after the warm-up to ``observe``.

        Args:
            observe: Called with the step.
            due: Asked after each step whether this one is to be shown.
        """
        self.observers.append((observe, due))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A plain mmseg checkpoint of the segmentor starts the student, and teachers that follow it.
        own = f'{prefix}segmentor.'
        if state_dict and not any(key.startswith(own) for key in state_dict):
            heads = tuple(f'{prefix}{name}.' for name, _ in self.segmentor.named_children())
            plain = {key: value for key, value in state_dict.items() if key.startswith(heads)}
            starting = [
                f'{prefix}{name}.'
                for name, part in self.named_modules()  # type: ignore[attr-defined]
                if getattr(part, 'starts_as_student', False)
            ]
            for key, value in plain.items():
                for begin in (own, *starting):
                    state_dict[begin + key[len(prefix) :]] = value
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]
