"""Check a config and its data before a training: ``mmseg-semi check``.

Looks at all files of every part (labeled, unlabeled, validation and test) as a training does before
its first step, and says what they hold. Findings have a number: E for errors, which a training
refuses, W for warnings. All of it goes to ``check.json`` too. The exit status is 1 with an error.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATA_SAMPLERS, DATASETS, MODELS

from mmseg_semi.apis.channel_check import bring_statistics
from mmseg_semi.apis.runner_setup import explaining_built, set_work_dir
from mmseg_semi.apis.start import ignore_library_warnings
from mmseg_semi.datasets.dataset_tree import image_paths, leaf_datasets
from mmseg_semi.datasets.mask_checks import Findings
from mmseg_semi.datasets.part_checks import Part, check_parts
from mmseg_semi.datasets.part_statistics import advice, as_json, table
from mmseg_semi.datasets.samplers import SemiSampler
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.engine.hooks.data_check_hook import (
    check_classes,
    check_parts_overlap,
    training_parts,
)
from mmseg_semi.errors import refusal
from mmseg_semi.files import write_file
from mmseg_semi.utils.config import CfgOptions, is_detector, load_config
from mmseg_semi.utils.config_keys import value_at


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='training config')
    parser.add_argument(
        '--out', help="folder of check.json (default: the run's, work_dirs/<name of the config>)"
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='override config keys')
    return parser.parse_args(argv)


def build(cfg: Config, key: str, registry: Any, found: Findings) -> Any | None:
    """Build a part of the config as the runner would; what cannot be built is an error.

    Args:
        cfg: The config.
        key: Its key.
        registry: Of the part.
        found: Gets the error.
    """
    wanted = value_at(cfg, key)
    if not isinstance(wanted, Mapping):
        return None
    try:
        with explaining_built(cfg):
            return registry.build(copy.deepcopy(wanted))
    except Exception as error:
        _refused(error, f'{key}: ', found)
        return None


def _refused(error: Exception, key: str, found: Findings) -> None:
    """Note what a user is told; a fault of the program stays one."""
    text = refusal(error)
    if text is None:
        raise error
    found.errors.append(text if key.removesuffix(': ') in text else f'{key}{text}')


def check_data(cfg: Config) -> tuple[Findings, list[Part]]:
    """Look at the model and all data of a config.

    Args:
        cfg: The config.

    Returns:
        What was found, and the parts with what they hold.
    """
    found = Findings()
    train = build(cfg, 'train_dataloader.dataset', DATASETS, found)
    semi = isinstance(train, SemiDataset)
    key = 'train_dataloader.dataset' + ('.labeled' if semi else '')
    parts = [] if train is None else training_parts(train, key)
    _join(found, bring_statistics(cfg, parts))  # before the model, which reads them
    heldout: list[Part] = []
    for name in ('val', 'test'):
        dataset = build(cfg, f'{name}_dataloader.dataset', DATASETS, found)
        if dataset is not None and all(_files(dataset) != _files(one.dataset) for one in heldout):
            heldout.append(Part(f'{name}_dataloader.dataset', dataset, name))
    model = build(cfg, 'model', MODELS, found)
    labeled = {part.key: part.dataset for part in [*parts[:1], *heldout]}
    if model is not None and labeled:
        try:
            check_classes(model, labeled)
        except ValueError as error:
            _refused(error, '', found)
    for part in parts:
        part.measure = True
    _join(found, check_parts([*parts, *heldout]))
    if parts:
        _join(found, check_parts_overlap(parts, [one.dataset for one in heldout]))
        found.warnings += advice([*parts, *heldout], labeled_batch(cfg, train, found))
    return found, [*parts, *heldout]


def _files(dataset: Any) -> list[list[str]]:
    return [list(image_paths(leaf)) for leaf in leaf_datasets(dataset)]


def _join(found: Findings, more: Findings) -> None:
    found.errors += more.errors
    found.warnings += more.warnings


def labeled_batch(cfg: Config, dataset: Any, found: Findings) -> int:
    """Labeled images of a batch.

    Args:
        cfg: The config.
        dataset: The training dataset.
        found: Gets the error of a sampler that does not fit.
    """
    size = int(value_at(cfg, 'train_dataloader.batch_size') or 1)
    if not isinstance(dataset, SemiDataset) or dataset.unlabeled is None:
        return size
    wanted = dict(value_at(cfg, 'train_dataloader.sampler') or {}, dataset=dataset, seed=0)
    try:
        sampler = DATA_SAMPLERS.build(wanted)
        if not isinstance(sampler, SemiSampler):
            return size
        sampler.set_batch_size(size)
    except (TypeError, ValueError) as error:
        _refused(error, '', found)
        return 0
    return sampler.samples_per_batch['labeled']


def main(argv: Sequence[str] | None = None) -> None:
    """Check."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    if is_detector(cfg):
        raise SystemExit(f'{args.config}: the config of a detector; check looks at segmentors')
    set_work_dir(cfg, args.out, args.config)
    ignore_library_warnings()
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        found, parts = check_data(cfg)
    print('\n'.join(table(parts)))
    named = [
        dict(number=f'{severity[0].upper()}{i}', severity=severity, text=text)
        for severity, texts in (('error', found.errors), ('warning', found.warnings))
        for i, text in enumerate(dict.fromkeys(texts), 1)
    ]
    for one in named:
        print(f'{one["number"]} {one["text"]}')
    path = Path(cfg.work_dir, 'check.json')
    content = dict(config=args.config, findings=named, parts=[as_json(part) for part in parts])
    write_file(path, json.dumps(content, indent=1))
    errors = sum(one['severity'] == 'error' for one in named)
    print(f'{errors} errors, {len(named) - errors} warnings, all numbers in {path}')
    sys.exit(1 if errors else 0)
