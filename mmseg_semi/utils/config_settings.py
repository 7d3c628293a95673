"""Settings that train on wrong numbers, or fail in the first batch: found in the config."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_all_start_methods
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.models.losses.utils import get_class_weight

from mmseg_semi.arguments import Each, Number, OneOf, Rule, Whole
from mmseg_semi.errors import hint, reading
from mmseg_semi.utils.channel_settings import check_channels
from mmseg_semi.utils.config_keys import value_at
from mmseg_semi.utils.patch_settings import check_patch_segmentor, check_patches
from mmseg_semi.utils.safe_checkpoints import number_of

UNKNOWN = 255
_MODES = ('whole', 'slide')
SEED = Whole(0, 2**32 - 1)  # what numpy takes
_LEVELS = ('CRITICAL', 'FATAL', 'ERROR', 'WARN', 'WARNING', 'INFO', 'DEBUG', 'NOTSET')
# Heads that classify masks; their last class is no object.
_WITH_NO_OBJECT = ('MaskFormerHead', 'Mask2FormerHead', 'SideAdapterCLIPHead')
_IOU_NAMES = {
    'mIoU': ('aAcc', 'mIoU', 'mAcc'),
    'mDice': ('aAcc', 'mDice', 'mAcc'),
    'mFscore': ('aAcc', 'mFscore', 'mPrecision', 'mRecall'),
}


def check_settings(cfg: Config) -> None:
    """Refuse settings of a segmentor's config that contradict each other.

    Raises:
        ValueError: ``ignore_index`` or padding of the masks other than 255, ``class_weight`` that
            does not fit the classes, a single class, ``save_best`` of a score that is not
            computed, numbers of channels that differ, crops that an encoder cannot divide; names
            the config key, the value and what to set.
        DataError: A file of class weights cannot be read.
    """
    for part in ('model', 'data_preprocessor', 'tta_model'):
        _check_unknown_value(part, cfg.get(part))
    for part in ('train', 'val', 'test'):
        _check_unknown_value(f'{part}_dataloader', cfg.get(f'{part}_dataloader'))
        _check_unknown_value(f'{part}_evaluator', cfg.get(f'{part}_evaluator'))
    classes = _classes(cfg)
    for key, head in _heads(cfg.get('model') or {}):
        _check_classes(key, head, classes)
        _check_class_weights(key, head)
    _check_save_best(cfg)
    _check_iou_metrics(cfg)
    _check_test_cfg(cfg)
    _check_numbers(cfg)
    check_patch_segmentor(cfg)
    check_patches(cfg)
    check_channels(cfg)


def check_checkpoint_names(cfg: Config) -> None:
    """Refuse names of checkpoints by which a run would not be found again.

    Raises:
        ValueError: A hook's ``filename_tmpl`` is another than ``iter_{}.pth`` and ``epoch_{}.pth``,
            but for the digits' format.
    """
    for part in ('default_hooks', 'custom_hooks'):
        for key, name, value in _walk(part, cfg.get(part)):
            if name == 'filename_tmpl' and value is not None and not _finds_again(value):
                raise ValueError(
                    f'{key}.filename_tmpl is {value!r}, but --resume looks for iter_N.pth and '
                    'epoch_N.pth, and a new run is refused where they are: remove the key, or set '
                    "it to 'iter_{}.pth' or 'epoch_{}.pth'."
                )


def _finds_again(template: Any) -> bool:
    try:
        return [number_of(template.format(n)) for n in (1, 20000)] == [1, 20000]
    except (AttributeError, LookupError, ValueError):  # no text, or not a template of one number
        return False


def _walk(key: str, node: Any) -> Iterator[tuple[str, str, Any]]:
    """Every ``(key of the mapping, name, value)`` below a node."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield key, name, value
            yield from _walk(f'{key}.{name}', value)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _walk(f'{key}[{i}]', value)


def _check_unknown_value(part: str, node: Any) -> None:
    for key, name, value in _walk(part, node):
        if name == 'pad_val' and isinstance(value, Mapping):
            key, name, value = f'{key}.{name}', 'seg', value.get('seg', UNKNOWN)
        elif name not in ('ignore_index', 'seg_pad_val'):
            continue
        if isinstance(value, int) and value != UNKNOWN:
            raise ValueError(
                f'{key}.{name} is {value}, but pixels without a class are {UNKNOWN} everywhere '
                f'(masks, padding, losses, scores): remove the key, and write {UNKNOWN} in the '
                f'masks where they have {value}.'
            )


def _classes(cfg: Config) -> Sequence[str] | None:
    """Class names of the labeled images, where the config has them."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset, Mapping):
        if 'metainfo' in dataset:
            return (dataset['metainfo'] or {}).get('classes')
        dataset = dataset.get('labeled') or dataset.get('dataset')
    return None


def _heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    inner, prefix = model.get('segmentor'), 'model.segmentor'
    if not isinstance(inner, Mapping):
        inner, prefix = model, 'model'
    for name in ('decode_head', 'auxiliary_head'):
        found = inner.get(name)
        if isinstance(found, Mapping):
            yield f'{prefix}.{name}', found
        elif isinstance(found, (list, tuple)):
            heads = ((f'{prefix}.{name}[{i}]', head) for i, head in enumerate(found))
            yield from ((key, head) for key, head in heads if isinstance(head, Mapping))


def _check_classes(key: str, head: Mapping[str, Any], classes: Sequence[str] | None) -> None:
    if head.get('num_classes') != 1:
        return
    name = classes[-1] if classes else 'object'
    names = list(classes) if classes and len(classes) > 1 else ['background', name]
    outputs = ' and remove out_channels' if 'out_channels' in head else ''
    raise ValueError(
        f'{key}.num_classes is 1, but what is not {name!r} is a class too: set it to {len(names)}'
        f'{outputs}, metainfo.classes to {tuple(names)}, and write 0 for '
        f'{names[0]!r} and 1 for {names[1]!r} in the masks.'
    )


def _check_class_weights(key: str, head: Mapping[str, Any]) -> None:
    count = head.get('out_channels') or head.get('num_classes')
    if count is not None and str(head.get('type')).split('.')[-1] in _WITH_NO_OBJECT:
        count = head.get('num_classes', count) + 1
    losses = head.get('loss_decode')
    several = isinstance(losses, (list, tuple))
    for i, loss in enumerate(losses if isinstance(losses, (list, tuple)) else [losses]):
        weights = loss.get('class_weight') if isinstance(loss, Mapping) else None
        if weights is None or count is None:
            continue
        name = f'{key}.loss_decode{f"[{i}]" if several else ""}.class_weight'
        if isinstance(weights, str):
            with reading(f'{name}={weights!r}'):
                weights = list(get_class_weight(weights) or ())
        if not isinstance(weights, (list, tuple)) or not all(map(_is_number, weights)):
            raise ValueError(f'{name} must be a list of {count} numbers, got {weights!r}')
        if len(weights) != count:
            raise ValueError(
                f'{name} has {len(weights)} numbers, there are {count} classes: give one for each '
                f'({UNKNOWN}, unknown, needs none; a head that classifies masks has one more, for '
                'no object).'
            )
        if not all(math.isfinite(one) and one >= 0 for one in weights) or not any(weights):
            raise ValueError(
                f'{name} is {list(weights)}: weights must be finite, not negative and not all 0.'
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _evaluators(cfg: Config, part: str) -> Sequence[Mapping[str, Any]]:
    found = cfg.get(f'{part}_evaluator') or []
    return [found] if isinstance(found, Mapping) else found


def _check_save_best(cfg: Config) -> None:
    wanted = value_at(cfg, 'default_hooks.checkpoint.save_best')
    evaluators = _evaluators(cfg, 'val')
    kinds = {one.get('type') for one in evaluators}
    if wanted in (None, 'auto') or not kinds or kinds - {'IoUMetric', 'TeacherIoUMetric'}:
        return
    known: list[str] = []
    for one in evaluators:
        prefix = one.get('prefix', 'teacher' if one['type'] == 'TeacherIoUMetric' else None)
        for metric in one.get('iou_metrics', ['mIoU']):
            known += [f'{prefix}/{n}' if prefix else n for n in _IOU_NAMES.get(metric, ())]
    for name in [wanted] if isinstance(wanted, str) else list(wanted or ()):
        if name not in known:
            raise ValueError(
                f'default_hooks.checkpoint.save_best is {name!r}, which no val_evaluator computes.'
                f'{hint(name, known)} Known: {", ".join(dict.fromkeys(known))}.'
            )


def _check_numbers(cfg: Config) -> None:
    """Refuse what torch and mmengine would refuse later, without the key."""
    rules: list[tuple[str, Rule]] = []
    for part in ('train', 'val', 'test'):
        rules.append((f'{part}_dataloader.batch_size', Whole(1)))
        rules.append((f'{part}_dataloader.num_workers', Whole(0)))
        rules.append((f'{part}_dataloader.prefetch_factor', Whole(1)))
        rules.append((f'{part}_dataloader.timeout', Number(0)))
    rules += [(f'train_cfg.{name}', Whole(1)) for name in ('max_iters', 'max_epochs')]
    rules += [('optim_wrapper.optimizer.lr', Number(0)), ('train_cfg.val_interval', Whole(1))]
    rules += [('optim_wrapper.accumulative_counts', Whole(1))]
    rules += [('optim_wrapper.optimizer.weight_decay', Number(0)), ('randomness.seed', SEED)]
    rules += [('log_level', OneOf(*_LEVELS, *range(0, 60, 10)))]
    rules += [('env_cfg.mp_cfg.mp_start_method', OneOf(*get_all_start_methods()))]
    rules += [('default_scope', OneOf('mmengine', *MODELS.children))]
    for key, rule in rules:
        value = value_at(cfg, key)
        if value is not None:
            rule.check(key, value)
    for key in (
        'data_preprocessor',
        'model.data_preprocessor',
        'model.segmentor.data_preprocessor',
    ):
        _check_pixels(key, value_at(cfg, key))
    _check_schedule(cfg.get('param_scheduler'))
    wanted = value_at(cfg, 'default_hooks.checkpoint.rule')
    for one in wanted if isinstance(wanted, (list, tuple)) else [wanted]:
        OneOf(None, 'greater', 'less').check('default_hooks.checkpoint.rule', one)


def _check_schedule(schedulers: Any) -> None:
    """Refuse a scheduler that ends before it begins."""
    several = isinstance(schedulers, (list, tuple))
    for i, one in enumerate(schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]):
        known = one if isinstance(one, Mapping) else {}
        begin: Any = known.get('begin', 0)
        end: Any = known.get('end')
        if _is_number(begin) and _is_number(end) and end <= begin:
            key = f'param_scheduler[{i}]' if several else 'param_scheduler'
            raise ValueError(
                f'{key}.end is {end}, but it begins at {begin}: set end to a later step, or remove '
                'it to go on to the last one'
            )


def _check_pixels(key: str, node: Any) -> None:
    """Refuse means and deviations of channels that fit no image."""
    mean, std = (node.get(name) for name in ('mean', 'std')) if node else (None, None)
    for name, value, rule in (
        ('mean', mean, Number(-math.inf)),
        ('std', std, Number(0, above=True)),
    ):
        if value is not None:
            Each(rule).check(f'{key}.{name}', value)
    if mean is not None and std is not None and len(mean) != len(std):
        raise ValueError(
            f'{key}: mean has {len(mean)} values, std {len(std)}: give one for each channel'
        )


def check_together(cfg: Config) -> None:
    """Refuse a part of validation or test without the others, as the runner would.

    Raises:
        ValueError: Names the keys that are None and those that are not.
    """
    for part in ('val', 'test'):
        keys = [f'{part}_dataloader', f'{part}_cfg', f'{part}_evaluator']
        lacking = [key for key in keys if cfg.get(key) is None]
        if 0 < len(lacking) < len(keys):
            given = [key for key in keys if key not in lacking]
            raise ValueError(
                f'{", ".join(keys)} must all be None, to go without, or none of them, got None for '
                f'{" and ".join(lacking)} alone: set {" and ".join(given)} to None too.'
            )


def _check_iou_metrics(cfg: Config) -> None:
    """Refuse names that IoUMetric would refuse at the first validation."""
    for part in ('val', 'test'):
        for one in _evaluators(cfg, part):
            if one.get('type') in ('IoUMetric', 'TeacherIoUMetric'):
                for name in one.get('iou_metrics', ()):
                    OneOf(*_IOU_NAMES).check(f'{part}_evaluator.iou_metrics', name)


def _check_test_cfg(cfg: Config) -> None:
    """Refuse a way to predict that fails at the first image."""
    for key in ('model.test_cfg', 'model.segmentor.test_cfg'):
        test_cfg = value_at(cfg, key) or {}
        mode = test_cfg.get('mode')
        if mode not in _MODES and hint(str(mode), list(_MODES)):
            OneOf(*_MODES).check(f'{key}.mode', mode)
        if mode != 'slide':
            continue
        crop: Any = test_cfg.get('crop_size')
        stride: Any = test_cfg.get('stride')
        for name, value in (('crop_size', crop), ('stride', stride)):
            pair = isinstance(value, Sequence) and len(value) == 2
            if not pair or not all(isinstance(one, int) and one >= 1 for one in value):
                raise ValueError(
                    f"{key}.{name} must be two whole numbers >= 1 with mode='slide', got {value!r}:"
                    ' set the height and width of a window (crop_size) and the steps between two '
                    'windows (stride), such as crop_size=(512, 512), stride=(341, 341)'
                )
        if any(step > side for side, step in zip(crop, stride)):
            raise ValueError(
                f'{key}.stride is {stride!r}, more than crop_size={crop!r}, which leaves gaps '
                'between the windows: make it smaller'
            )
