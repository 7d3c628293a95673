"""Checks between datasets, sampler, loop and model before training starts."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from mmseg.registry import DATASETS, HOOKS
from torch import nn

from mmseg_semi.arguments import OneOf, checked
from mmseg_semi.datasets.checks import check_parts_overlap, training_parts
from mmseg_semi.datasets.dataset_tree import leaf_datasets, pipeline_transforms
from mmseg_semi.datasets.findings import Findings
from mmseg_semi.datasets.labeled_checks import fill_num_classes, verify_labeled
from mmseg_semi.datasets.mixed_images import check_mixed
from mmseg_semi.datasets.part_checks import Part, check_class_names, check_parts
from mmseg_semi.datasets.part_statistics import advice
from mmseg_semi.datasets.samplers import SemiSampler
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.errors import DataError
from mmseg_semi.models.memories import BaseMemory
from mmseg_semi.models.mixers import ClassAwareCutMix
from mmseg_semi.utils.safe_checkpoints import CheckpointError
from mmseg_semi.utils.weight_checks import check_checkpoint, other_class, trained_classes


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Refuse data that do not fit each other, the model or the training loop.

    Before training: the loop fits the sampler; the classes of training and validation data are the
    same, and as many as those of the model's heads; all images can be read and all masks fit them
    and the classes (see ``check_parts``; the main rank looks, all ranks stop); no validation or
    test image is among the labeled or unlabeled ones (see ``check_overlap``). What may not be meant
    (see ``advice`` and ``check_mixed``) is a warning. Then one line says what is trained on. Before
    validation and test, ``CheckAnnotations`` in their pipelines is told the number of classes;
    before a test its files are looked at. A checkpoint that does not fit the network, or has other
    classes, is refused. Plain supervised training has fewer things to check and works with this
    hook too.

    Args:
        on_overlap: What validation or test images among those that are trained on are: ``'raise'``
            an error, or ``'warn'``, a warning.
    """

    @checked
    def __init__(self, on_overlap: Annotated[str, OneOf('raise', 'warn')] = 'raise') -> None:
        self.on_overlap = on_overlap

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that mmengine would load in part, and those of other classes.

        A run that begins with them (``load_from``) may have other classes, with a warning, and
        memories of other sizes, which begin empty.

        Raises:
            ValueError: See ``check_checkpoint``.
            CheckpointError: The classes of the checkpoint are not those of the data.
        """
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        training = isinstance(runner._train_loop, BaseLoop)
        check_checkpoint(model, checkpoint, training)
        _check_trained_classes(runner, checkpoint)
        if training and not runner._resume:
            _leave_out_memories(model, checkpoint)

    def before_train(self, runner: Any) -> None:
        """Check everything once.

        Raises:
            ValueError: An epoch-based loop with ``SemiSampler``, which never ends an epoch; numbers
                of classes that disagree, or their names.
            DataError: Validation or test images in the unlabeled part.
        """
        loader = runner.train_dataloader
        if isinstance(loader.sampler, SemiSampler) and isinstance(
            runner.train_loop, EpochBasedTrainLoop
        ):
            raise ValueError(  # mmengine swallows the traceback of a TypeError in a hook
                f'train_cfg builds {type(runner.train_loop).__name__}, but SemiSampler never ends '
                "an epoch. Set train_cfg=dict(type='SemiTrainLoop', max_epochs=...) or max_iters."
            )
        heldout = {name: _heldout_dataset(runner, name) for name in ('val', 'test')}
        semi = isinstance(loader.dataset, SemiDataset)
        train_key = 'train_dataloader.dataset' + ('.labeled' if semi else '')
        datasets = {train_key: loader.dataset.labeled if semi else loader.dataset}
        datasets.update({f'{n}_dataloader.dataset': d for n, d in heldout.items() if d})
        check_classes(runner.model, datasets)
        if not semi:
            verify_labeled(loader.dataset, train_key)
        if heldout['val']:
            _verify_heldout(heldout['val'], 'val_dataloader.dataset')
        if semi and loader.dataset.unlabeled is not None:
            _check_collate(loader)
        on_main_rank(lambda: self._check_data(loader, train_key, heldout))
        if semi:
            _log_summary(loader)

    def _check_data(self, loader: Any, train_key: str, heldout: dict[str, Any]) -> None:
        dataset, sampler = loader.dataset, loader.sampler
        batch = loader.batch_size or 1
        if isinstance(sampler, SemiSampler):
            batch = sampler.samples_per_batch['labeled']
        parts = training_parts(dataset, train_key)
        val = heldout['val']
        looked = parts + ([Part('val_dataloader.dataset', val, 'val')] if val else [])
        found = check_parts(looked)
        found.join(check_class_names(looked))
        _report(found)
        _report(Findings(warnings=[*advice(looked, batch), *check_mixed(looked).warnings]))
        found = check_parts_overlap(parts, [one for one in heldout.values() if one])
        if self.on_overlap == 'warn':
            found = found.as_warnings()
        _report(found)

    def before_val(self, runner: Any) -> None:
        """Tell ``CheckAnnotations`` of the validation pipeline the number of classes."""
        fill_num_classes(runner.val_dataloader.dataset, 'val_dataloader.dataset')

    def before_test(self, runner: Any) -> None:
        """Check the test data; tell ``CheckAnnotations`` the number of classes."""
        dataset, key = runner.test_dataloader.dataset, 'test_dataloader.dataset'
        _verify_heldout(dataset, key)
        on_main_rank(lambda: _report(check_parts([Part(key, dataset, 'test')])))
        fill_num_classes(dataset, key)


def _leave_out_memories(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Take the memories out of a checkpoint that are of other sizes or classes than the model's."""
    state = checkpoint.get('state_dict', checkpoint)
    for name, module in model.named_modules():
        if not isinstance(module, (BaseMemory, ClassAwareCutMix)):
            continue
        own = module.state_dict(prefix=f'{name}.')
        rows = isinstance(module, ClassAwareCutMix)  # one for each image of its data
        there = {key: state[key] for key in own if key in state}
        if any(value.shape[rows:] != own[key].shape[rows:] for key, value in there.items()):
            for key in there:
                del state[key]
            print_log(
                f'model.{name} begins empty, since the checkpoint has one of another size or of '
                'other classes',
                logger='current',
                level=logging.WARNING,
            )


def _check_trained_classes(runner: Any, checkpoint: Mapping[str, Any]) -> None:
    loops = ((name, getattr(runner, f'_{name}_loop', None)) for name in ('train', 'test', 'val'))
    name, loop = next((pair for pair in loops if isinstance(pair[1], BaseLoop)), ('', None))
    given = getattr(loop and loop.dataloader.dataset, 'metainfo', {}).get('classes')
    trained = trained_classes(checkpoint)
    difference = other_class(trained, given) if trained and given else None
    if difference is None:
        return
    text = (
        f'the classes of the checkpoint are not those of {name}_dataloader.dataset.metainfo: '
        f'{difference}'
    )
    if name == 'train' and not runner._resume:
        text += ', so its classifier begins with weights of other classes, or anew'
        print_log(text, logger='current', level=logging.WARNING)
    else:
        raise CheckpointError(
            f'{text}. Give the config that it was trained with (metainfo.classes, in the same '
            'order), or another checkpoint.'
        )


def _heldout_dataset(runner: Any, name: str) -> Any | None:
    """The validation or test dataset, built for this check if nobody did before."""
    loop = getattr(runner, f'_{name}_loop', None)
    loader = getattr(loop, 'dataloader', None) or getattr(runner, f'_{name}_dataloader', None)
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else _attr(loader, 'dataset')
    if not isinstance(dataset, Mapping):
        return dataset
    try:
        return DATASETS.build(copy.deepcopy(dataset))
    except Exception as error:  # training does not need it; testing will say what is wrong
        print_log(
            f'{name}_dataloader.dataset can not be built, so its images were not compared with '
            f'those that are trained on: {type(error).__name__}: {error}',
            logger='current',
            level=logging.WARNING,
        )
        return None


def on_main_rank(check: Callable[[], None]) -> None:
    """Run a check on the main rank; the other ranks wait, and all of them raise its error."""
    found: Exception | None = None
    if is_main_process():
        try:
            check()
        except Exception as error:  # the other ranks would wait for ever
            found = error
    texts = [None if found is None else str(found)]
    broadcast_object_list(texts)
    if texts[0] is not None:
        raise found or DataError(texts[0])


def _verify_heldout(dataset: Any, key: str) -> None:
    """Refuse validation or test data without files."""
    for leaf in leaf_datasets(dataset):
        verify_labeled(leaf, key, masks=has_masks(leaf))


def has_masks(leaf: Any) -> bool:
    """Whether the pipeline of an unwrapped dataset loads masks."""
    names = [type(transform).__name__ for transform in pipeline_transforms(leaf)]
    return 'LoadAnnotations' in names


def _report(found: Findings) -> None:
    for text in found.warnings:
        print_log(text, logger='current', level=logging.WARNING)
    if found.errors:
        raise DataError('\n'.join(found.errors))


def _check_collate(loader: Any) -> None:
    function = getattr(loader.collate_fn, 'func', loader.collate_fn)
    if getattr(function, '__name__', '') in ('pseudo_collate', 'default_collate'):
        raise ValueError(
            f'train_dataloader.collate_fn is {function.__name__}, which cannot join labeled and '
            "unlabeled samples: set collate_fn=dict(type='semi_collate')"
        )


def _attr(owner: Any, name: str) -> Any | None:
    return getattr(owner, name, None)


def _heads(model: nn.Module) -> dict[str, nn.Module]:
    """Heads with a number of classes, by their config key."""
    inner, prefix = getattr(model, 'segmentor', model), 'model'
    if inner is not model:
        prefix += '.segmentor'
    heads = {}
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(inner, name, None)
        if isinstance(head, nn.ModuleList):
            heads.update({f'{prefix}.{name}[{i}]': one for i, one in enumerate(head)})
        elif head is not None:
            heads[f'{prefix}.{name}'] = head
    return {f'{k}.num_classes': h for k, h in heads.items() if hasattr(h, 'num_classes')}


def check_classes(model: Any, datasets: Mapping[str, Any]) -> None:
    """Refuse classes that differ between datasets, or in number from those of the model's heads.

    Args:
        model: The model.
        datasets: By config key, that of the labeled images first.

    Raises:
        ValueError: Names the keys.
    """
    first = next(iter(datasets), '')
    for key, dataset in datasets.items():
        fill_num_classes(dataset, key)
        _check_classes(model, dataset, key)
        _check_same_classes(first, datasets[first], key, dataset)


def _check_classes(model: Any, dataset: Any, key: str) -> None:
    model = model.module if is_model_wrapper(model) else model
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    if classes is None:
        print_log(
            f'{key} has no class names, so their number was not compared with the model; set '
            'metainfo=dict(classes=(...))',
            logger='current',
            level=logging.WARNING,
        )
        return
    for head_key, head in _heads(model).items():
        if head.num_classes != len(classes):
            names = ', '.join(map(str, classes[:5])) + (', ...' if len(classes) > 5 else '')
            raise ValueError(
                f'{head_key} is {head.num_classes}, but {key}.metainfo.classes has '
                f'{len(classes)} names ({names}). Make them agree: one of the two is wrong.'
            )


def _check_same_classes(train_key: str, train: Any, key: str, dataset: Any) -> None:
    first, second = (getattr(one, 'metainfo', {}).get('classes') for one in (train, dataset))
    difference = other_class(first, second) if first and second else None
    if difference is not None:
        raise ValueError(
            f'the classes of {train_key}.metainfo are not those of {key}.metainfo: {difference}. '
            'Make them the same names in the same order: masks hold only their numbers.'
        )


def _log_summary(loader: Any) -> None:
    dataset, sampler = loader.dataset, loader.sampler
    unlabeled = 0 if dataset.unlabeled is None else len(dataset.unlabeled)
    text = f'Data: {len(dataset.labeled)} labeled and {unlabeled} unlabeled images'
    if isinstance(sampler, SemiSampler):
        batch = sampler.samples_per_batch
        text += (
            f', {sampler.iters_per_epoch} iterations per epoch (batch: {batch["labeled"]} labeled '
            f'+ {batch["unlabeled"]} unlabeled on each of {sampler.world_size} ranks)'
        )
    print_log(text, logger='current')
