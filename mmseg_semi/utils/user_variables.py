"""The variables at the top of one's own config, and all that follows from them.

A base has used its own value of a variable before a child can set it. So
``_base_/datasets/custom.py`` names its variables in ``user_variables``, and what a child says of
them, or ``--cfg-options``, is followed here when the config is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmseg_semi.arguments import Each, Number, OneOf, Whole
from mmseg_semi.datasets.coco81_dataset import bit_color
from mmseg_semi.datasets.part_checks import CLASSES_FILE
from mmseg_semi.files import read_json
from mmseg_semi.utils import encoder_weights
from mmseg_semi.utils.patch_settings import check_patches

#: Key of a config that names its variables, with the values that its bases have used.
KEY = 'user_variables'
#: What mmseg-semi check writes there where ``in_channels`` is given.
STATISTICS_FILE = 'channels.json'
_PARTS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_FOLDERS = dict(img_path='images', seg_map_path='annotations')


def followed(cfg: Config) -> list[str]:
    """Variables that are set beside the values which the bases have used."""
    return [name for name in cfg.get(KEY) or () if name in cfg]


def follow(cfg: Config, path: str, options: Collection[str] = ()) -> None:
    """Set all that depends on the variables of a config, and take them out of it.

    Args:
        cfg: The config, which is changed.
        path: Its file, for messages.
        options: Names that come from ``--cfg-options``.

    Raises:
        ValueError: A variable has a value that it cannot have.
    """
    declared = cfg.get(KEY) or {}
    given = {name: cfg.pop(name) for name in followed(cfg)}
    root = given.get('data_root', declared.get('data_root'))
    if 'classes' not in given and 'data_root' in given and Path(str(root), CLASSES_FILE).is_file():
        given['classes'] = CLASSES_FILE
    if 'weights' in declared:  # so that messages name it
        given.setdefault('weights', declared['weights'])
    for name in (one for one in _FOLLOW if one in given):  # start is a share of iterations
        value = given[name]
        try:
            _FOLLOW[name](cfg, value, root)
        except ValueError as error:
            place = '--cfg-options' if name in options else f'{path}:'
            raise ValueError(f'{place} {name}={value!r}: {error}') from error
    cfg.pop(KEY, None)


def _nodes(node: Any) -> Iterator[Any]:
    """All dicts of a part of a config."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _nodes(child)


def _data(cfg: Config) -> Iterator[Any]:
    for part in _PARTS:
        yield from _nodes(cfg.get(part))


def _heldout(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Name and data set of the parts that are not trained, without those that are None."""
    for name in ('val', 'test'):
        if cfg.get(f'{name}_dataloader'):
            yield name, cfg[f'{name}_dataloader'].dataset


def _data_root(cfg: Config, value: Any, _root: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError("give the folder of the data, such as data_root='data/leaves'")
    declared = cfg[KEY].data_root
    for node in _data(cfg):
        if node.get('data_root') == declared:  # a part may have a folder of its own
            node['data_root'] = value


def _split(cfg: Config, value: Any, root: Any) -> None:
    if value is None:  # parts have folders of their own
        return
    if not isinstance(value, str) or not value:
        raise ValueError("give a folder of lists in the data_root, such as split='splits/50-seed0'")
    folder = Path(root, value)
    if Path(root).is_dir() and not folder.is_dir():
        lists = sorted(Path(root).glob('splits/*/labeled.txt'))
        there = ', '.join(str(path.parent.relative_to(root)) for path in lists) or 'none'
        raise ValueError(
            f'there is no folder {folder}. Name one of those in {root} ({there}), or make one with '
            f'mmseg-semi split {root}.'
        )
    training = cfg.train_dataloader.dataset
    parts = dict(labeled=training.labeled, unlabeled=training.get('unlabeled'))
    parts |= dict(_heldout(cfg))
    for name, part in parts.items():
        if part is None or _is_own(part, root):
            continue
        if name == 'test' and not (folder / 'test.txt').is_file():
            name = 'val'
        masks = {} if name == 'unlabeled' else dict(seg_map_path='annotations')
        part.data_prefix = ConfigDict(img_path='images', **masks)
        part.ann_file = f'{value}/{name}.txt'


def _is_own(part: Mapping[str, Any], root: Any) -> bool:
    """Whether the config says itself which images a part has, beside the split."""
    prefixes = {f'images/{name}' for name in ('labeled', 'unlabeled', 'val')}  # of the base
    elsewhere = part.get('data_root', root) != root or part.get('ann_file')
    return bool(elsewhere) or part.get('data_prefix', {}).get('img_path') not in prefixes


def _classes(cfg: Config, value: Any, root: Any) -> None:
    found = dict(classes=value)
    if isinstance(value, str) and value.endswith('.json'):
        found = read_json(Path(root, value), 'Name the classes, or a file that has them.')
        found = found if isinstance(found, dict) else dict(classes=found)
    names = found.get('classes')
    if isinstance(names, (list, tuple)) and len({*names}) < len(names):
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        raise ValueError(f'classes must be different, and {twice[0]!r} is there twice')
    if not isinstance(names, (list, tuple)) or len(names) < 2:
        raise ValueError(
            "give the names of at least two classes in the order of their numbers, as ('background'"
            f", 'leaf'), or a file that has them in the data_root, as {CLASSES_FILE}"
        )
    made = [bit_color(number) for number in range(len(names))]  # as all pictures without one
    metainfo = dict(classes=names, palette=found.get('palette') or made)
    for node in _data(cfg):
        if 'metainfo' in node:
            node['metainfo'] = ConfigDict(metainfo)
    for node in _nodes(cfg.model):
        if 'num_classes' in node:
            node['num_classes'] = len(names)


def _crop_size(cfg: Config, value: Any, _root: Any) -> None:
    _check_size('height and width', value)
    cfg.train_dataloader.dataset.geometry.crop.crop_size = tuple(value)
    check_patches(cfg)


def _scale(cfg: Config, value: Any, _root: Any) -> None:
    geometry = cfg.train_dataloader.dataset.geometry
    if value is None:  # images as they are
        ratio = geometry.resize.ratio_range
        geometry.resize = ConfigDict(type='RandomRelativeResize', ratio_range=ratio)
    else:
        _check_size('the largest width and height, or None for images as they are', value)
        geometry.resize.scale = tuple(value)
    for _, dataset in _heldout(cfg):
        dataset.pipeline = [one for one in dataset.pipeline if value or one.type != 'Resize']
        for one in dataset.pipeline:
            if one.type == 'Resize':
                one.scale = tuple(value)
    for one in cfg.tta_pipeline[-1].transforms[0]:
        ratio = one.scale[0] / cfg[KEY].scale[0]
        if value is None:
            one.pop('scale')
            one.scale_factor = ratio
        else:
            one.scale = tuple(int(ratio * side) for side in value)


def _in_channels(cfg: Config, value: Any, root: Any) -> None:
    Whole(1).check('it', value)
    channels = dict(in_channels=value, statistics=str(Path(root, STATISTICS_FILE)))
    loading = ConfigDict(type='LoadChannels', **channels)
    cfg.train_dataloader.dataset.loading = loading
    for pipeline in (*(one.pipeline for _, one in _heldout(cfg)), cfg.tta_pipeline):
        pipeline[0] = loading
    network = cfg.model.get('segmentor') or cfg.model
    encoder_weights.set_channels(network.backbone, value)
    network.data_preprocessor.update(channels)


def _weights(cfg: Config, value: Any, _root: Any) -> None:
    encoder_weights.set_weights(cfg.model.get('segmentor') or cfg.model, value)


def _iterations(cfg: Config, value: Any, _root: Any) -> None:
    Whole(1).check('it', value)
    ratio = value / cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = value
    for node, key in (
        (cfg.train_cfg, 'val_interval'),
        (cfg.default_hooks.checkpoint, 'interval'),
        (cfg.model, 'warmup_iters'),
        *((one, key) for one in cfg.param_scheduler for key in ('begin', 'end')),
    ):
        if node.get(key):  # neither 0, the start, nor None, the last iteration
            node[key] = max(1, round(node[key] * ratio))
            if key in ('val_interval', 'interval'):  # short runs look at themselves less often
                node[key] = max(node[key], min(value, _LEAST_INTERVAL), -(-value // 10))


def _start(cfg: Config, value: Any, _root: Any) -> None:
    Number(0, 1).check('it', value)
    if 'segmentor' in cfg.model:  # the others train on labels alone anyway
        cfg.model.warmup_iters = round(value * cfg.train_cfg.max_iters)


def _batch_size(cfg: Config, value: Any, _root: Any) -> None:
    Whole(1).check('it', value)
    loader = cfg.train_dataloader
    semi = loader.dataset.get('unlabeled') is not None
    labeled, unlabeled = loader.sampler.get('ratio', (1, 1)) if semi else (1, 0)
    if value % labeled:
        raise ValueError(f'give a multiple of {labeled}, as train_dataloader.sampler.ratio says')
    loader.batch_size = value // labeled * (labeled + unlabeled)


def _workers(cfg: Config, value: Any, _root: Any) -> None:
    Whole(0).check('it', value)
    for part in _PARTS:
        if cfg.get(part):
            cfg[part].update(num_workers=value, persistent_workers=value > 0)


def _learning_rate(cfg: Config, value: Any, _root: Any) -> None:
    if value is None:  # the network's own
        return
    Number(0, above=True).check('it', value)
    cfg.optim_wrapper.optimizer.lr = value


def _balance(cfg: Config, value: Any, _root: Any) -> None:
    OneOf(True, False).check('it', value)
    if not value:
        return
    cfg.custom_hooks.append(ConfigDict(type='ClassWeightHook'))
    dataset = cfg.train_dataloader.dataset
    crop = dict(type='ClassBalancedCrop', crop_size=dataset.geometry.crop.crop_size, prob=0.5)
    if dataset.unlabeled is None:
        dataset.geometry.crop = ConfigDict(crop)
    else:  # unlabeled images have no classes
        dataset.labeled.geometry = ConfigDict(dataset.geometry, crop=crop)


def _guard(cfg: Config, value: Any, _root: Any) -> None:
    OneOf(True, False).check('it', value)
    cfg.default_hooks.checkpoint.save_best = 'mIoU' if value else None
    cfg.guarded = value


def _check_size(what: str, value: Any) -> None:
    try:
        Each(Whole(1), length=2).check('it', value)
    except ValueError:
        raise ValueError(f'give {what} in pixels, such as (320, 320)') from None


#: Steps between two validations at least, unless the run is shorter.
_LEAST_INTERVAL = 10
_FOLLOW: dict[str, Callable[[Config, Any, Any], None]] = dict(
    data_root=_data_root,
    split=_split,
    classes=_classes,
    crop_size=_crop_size,
    scale=_scale,
    in_channels=_in_channels,
    weights=_weights,
    iterations=_iterations,
    start=_start,
    batch_size=_batch_size,
    workers=_workers,
    learning_rate=_learning_rate,
    balance=_balance,
    guard=_guard,
)
