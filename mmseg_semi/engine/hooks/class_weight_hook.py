"""Weights of the classes in the loss of the labeled images."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import HOOKS

from mmseg_semi.datasets.checks import training_parts
from mmseg_semi.datasets.part_checks import check_parts
from mmseg_semi.datasets.part_statistics import class_weights
from mmseg_semi.utils.upstream_fixes import weighted_cross_entropy

from .data_check_hook import on_main_rank


@HOOKS.register_module()
class ClassWeightHook(Hook):
    r"""Weigh rare classes more in the loss of the labeled images.

    Before training, the pixels of the labeled masks are counted, and the ``CrossEntropyLoss`` of
    every head of the segmentor gets :math:`w_k = \min(10, \sqrt{\max_j f_j / f_k})` as class
    weights, :math:`f_k` the share of class k; 1 for a class without pixels. (The root of the
    frequencies, as in Mahajan et al., ECCV 2018, lies between no weights and equal classes.) The
    losses of unlabeled images stay as they are. The log says the weights.

    Raises:
        ValueError: Before training: a head chooses pixels (``sampler``), or its loss is another
            one or has weights already.
    """

    priority = 'LOW'  # after the data have been checked

    def before_train(self, runner: Any) -> None:
        """Count, and set the weights."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        losses = _losses(getattr(model, 'segmentor', model))
        part = training_parts(runner.train_dataloader.dataset, 'labeled')[0]
        weights: list[float] = []

        def count() -> None:
            check_parts([part])
            weights.extend(class_weights(part))

        on_main_rank(count)
        found = [weights]
        broadcast_object_list(found)
        for loss in losses:
            loss.class_weight, loss.cls_criterion = found[0], weighted_cross_entropy
        names = part.dataset.metainfo['classes']
        said = ', '.join(f'{name} {one}' for name, one in zip(names, found[0]))
        print_log(f'Class weights: {said}', logger='current', level=logging.INFO)


def _several(modules: Any) -> list[Any]:
    """What mmseg has as None, one module or a list of them."""
    return list(modules) if hasattr(modules, '__iter__') else [modules] if modules else []


def _losses(segmentor: Any) -> list[CrossEntropyLoss]:
    """The losses of all heads, which must take weights.

    Raises:
        ValueError: One does not.
    """
    found = []
    for key in ('decode_head', 'auxiliary_head'):
        for head in _several(getattr(segmentor, key, None)):
            found += _several(head.loss_decode)
            if head.sampler is not None:
                raise ValueError(
                    f'{key}.sampler chooses pixels by their loss, which ClassWeightHook would '
                    'weigh: remove one of them (balance=False for own images)'
                )
    for loss in found:
        plain = type(loss) is CrossEntropyLoss and not (loss.use_sigmoid or loss.use_mask)
        if not plain or loss.class_weight is not None:
            given = type(loss).__name__ + (' with class_weight' if plain else '')
            raise ValueError(
                'ClassWeightHook weighs a CrossEntropyLoss over classes without class_weight, but '
                f'a loss_decode is a {given}: change it, or leave the hook out (balance=False for '
                'own images)'
            )
    return found
