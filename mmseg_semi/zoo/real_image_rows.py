"""Rows of a comparison on real images: their configs, and what numbers of labels change in them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmseg_semi.errors import exiting, hint
from mmseg_semi.files import check_there, shipped_root, write_file
from mmseg_semi.zoo.paper_tables import find_paper_table, load_methods
from mmseg_semi.zoo.write_configs import assignment, nested

CONFIGS = shipped_root() / 'configs'
MODEL, BASE, ALL, CUSTOM = '_efficientnet-lite0_', 'supervised', 'all', 'custom'


class Parts(NamedTuple):
    """What a config's name says: ``<method>_efficientnet-lite0_<data>-<labels>[_<change>]``.

    Of own images, it says ``<method>_efficientnet-lite0_custom``: no numbers of labels.
    """

    method: str
    data: str
    labels: str
    change: str


def parts_of(config: Path) -> Parts:
    """Take a config's name apart."""
    method, _, rest = config.stem.partition(MODEL)
    data, _, change = rest.partition('_')
    name, _, labels = data.rpartition('-')
    return Parts(method, name, labels, change)


def rows(data: str, configs: Path = CONFIGS) -> dict[str, Path]:
    """Configs of a data set by the name of their row; the supervised one comes first.

    Args:
        data: Name of the data set in the names of configs, ``custom`` for those of own images.
        configs: Folder of the configs.
    """
    found = configs.glob(f'*/**/*{MODEL}{data}*.py')
    methods = [path for path in found if path.parent.name != 'detection']
    named = {_name(path): path for path in sorted(methods, key=lambda path: path.stem)}
    return {BASE: named.pop(BASE), **named}


def _name(config: Path) -> str:
    """Name of a row: the method, and the change of an ablation."""
    parts = parts_of(config)
    return f'{parts.method}_{parts.change}' if parts.change else parts.method


def unlabeled_of(config: Path) -> dict[str, Any]:
    """The unlabeled part of a config, empty for supervised training."""
    return Config.fromfile(config).train_dataloader.dataset.get('unlabeled') or {}


def options_of(config: Path, labels: str) -> list[str]:
    """What is changed in a config for a number of labels."""
    options = []
    if labels != parts_of(config).labels:
        dataset, split = 'train_dataloader.dataset', f'splits/{labels}'
        # Without a list, a dataset has the whole folder.
        names = '' if labels == ALL else f'{split}/labeled.txt'
        options.append(f'{dataset}.labeled.ann_file={names}')
        unlabeled = unlabeled_of(config)
        if unlabeled:
            options.append(f'{dataset}.unlabeled.ann_file={split}/unlabeled.txt')
        boxes = unlabeled.get('detections') or {}
        for key in ('results', 'images') if boxes else ():
            path = Path(boxes[key])
            path = path.parent.with_name(labels) / path.name
            options.append(f'{dataset}.unlabeled.detections.{key}={path}')
    return options


def test_options_of(part: str) -> list[str]:
    """What is changed in a config for the part that is predicted."""
    prefix = 'test_dataloader.dataset.data_prefix'
    options = [f'{prefix}.img_path=images/{part}', f'{prefix}.seg_map_path=annotations/{part}']
    return [] if part == 'test' else options


def list_of(config: Path, labels: str) -> Path:
    """The list of a number of labeled images."""
    root = Config.fromfile(config).train_dataloader.dataset.labeled.data_root
    return Path(root, 'splits', labels, 'labeled.txt')


def check_lists(config: Path, labels: str, part: str) -> None:
    """Refuse a number of labels of which the data set has no lists, and a part that it lacks.

    Raises:
        SystemExit: Says which there are, or which folder is not there.
    """
    wanted = list_of(config, labels)
    root = wanted.parents[2]
    if not root.is_dir():
        variable = f'{parts_of(config).data.upper().replace("-", "_")}_ROOT'
        raise SystemExit(
            f'{root} is no folder: get the data set as docs/real_images.md says, or name its '
            f'folder with the environment variable {variable}'
        )
    there = sorted(path.parent.name for path in root.glob('splits/*/labeled.txt'))
    if labels not in (*there, ALL):
        raise SystemExit(
            f'--labels {labels}: {wanted} does not exist; there are '
            f'{", ".join(there)} and all. Name one, or make lists with --labels of the converter.'
        )
    for kind in ('images', 'annotations'):
        remedy = 'Make the data set whole with its converter, or predict another --part.'
        check_there(root / kind / part, remedy, f'--part {part}', 'folder', SystemExit)


def chosen(names: Sequence[str], known: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Configs of the rows that were asked for; those of settings are written.

    Args:
        names: ``all``, names of rows, and names with a setting: ``corrmatch:no-soft``.
        known: Configs of the rows.
        folder: Where configs of settings are written.

    Raises:
        SystemExit: There is no such row, or no such setting.
    """
    found: dict[str, Path] = {}
    for name in names:
        method, colon, setting = name.partition(':')
        if name != ALL and method not in known:
            raise SystemExit(
                f'--methods {name}: there is no such row.{hint(method, list(known))} Name some of '
                f'{", ".join(known)}, or all.'
            )
        if name == ALL:
            found |= known
        elif colon:
            found[f'{method}_{setting}'] = write_setting(known[method], method, setting, folder)
        else:
            found[name] = known[name]
    return found


def write_setting(config: Path, method: str, setting: str, folder: Path) -> Path:
    """Write the child of a config that a setting of the method's ablations makes.

    Args:
        config: The method's config.
        method: Name of its row.
        setting: Name in ``configs/*/ablations.yml``.
        folder: Where it is written.

    Raises:
        SystemExit: There is no such setting, or it is of another data set.
    """
    rows = load_methods(CONFIGS)[config.parent.name].ablation_rows
    settings = {str(row.setting): row.keys for row in rows}
    if setting not in settings:
        there = ', '.join(sorted(settings))
        advice = f'Name one of {there}.' if settings else 'It has none, name it alone.'
        raise SystemExit(
            f'--methods {method}:{setting}: there is no such setting.'
            f'{hint(setting, list(settings))} {advice}'
        )
    text = child_of([config], settings[setting])
    if '_ROOT' in text:
        raise SystemExit(
            f'--methods {method}:{setting}: this setting reads files of VOC, choose another one'
        )
    path = folder / f'{config.stem}_{setting}.py'
    write_file(path, text)
    return path


def child_of(bases: Sequence[Path], keys: Mapping[str, Any]) -> str:
    """Text of a child of configs, with values by dotted keys."""
    lines = [f'_base_ = {[str(base) for base in bases]!r}']
    for name, value in nested(keys).items():
        lines += assignment(name, value)
    return '\n'.join(lines) + '\n'


def as_own_images(config: Path, base: Path, folder: Path) -> Path:
    """The child of a config for own images that reads a data set, as a user's config would.

    It has the preset for a laptop, and the images as they are: what fits into the preset's scale is
    enlarged by it.

    Args:
        config: One for own images.
        base: The supervised config of the data set.
        folder: Where the child is written.
    """
    labeled = Config.fromfile(base).train_dataloader.dataset.labeled
    training = 'train_dataloader.dataset'
    parts = {f'{training}.labeled': 'train', f'{training}.unlabeled': 'train'}
    parts |= {f'{part}_dataloader.dataset': part for part in ('val', 'test')}
    if not unlabeled_of(config):
        del parts[f'{training}.unlabeled']
    keys = dict(data_root=labeled.data_root, classes=tuple(labeled.metainfo.classes), scale=None)
    for dataset, part in parts.items():
        keys[f'{dataset}.data_prefix.img_path'] = f'images/{part}'
        if not dataset.endswith('unlabeled'):
            keys[f'{dataset}.data_prefix.seg_map_path'] = f'annotations/{part}'
    path = folder / f'{config.stem}-{parts_of(base).data}.py'
    write_file(path, child_of([config, CONFIGS / CUSTOM / 'laptop.py'], keys))
    return path


def rows_of_table(name: str, known: dict[str, Path]) -> list[str]:
    """Names of the rows of a paper's table, for ``--methods``.

    Args:
        name: Such as ``CorrMatch 5``.
        known: Configs of the rows, of which a method on a framework that is not there is left out.

    Raises:
        SystemExit: There is no such table, or it has no settings.
    """
    with exiting(ValueError):
        tables = find_paper_table(load_methods(CONFIGS), name)
    found: dict[str, None] = {}
    left_out: dict[str, None] = {}
    for row in (row for one in tables for row in one.rows if not row.reason):
        rows = found if row.prefix in known else left_out
        rows[f'{row.prefix}:{row.setting}' if row.setting else row.prefix] = None
    if not found:
        raise SystemExit(f'--ablation {name}: none of its rows has a method of {", ".join(known)}')
    if left_out:
        print(
            f'--ablation {name}: left out, this set has no such method: {", ".join(left_out)}',
            file=sys.stderr,
        )
    return list(found)
