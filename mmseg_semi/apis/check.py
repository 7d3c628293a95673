"""Check a config and its data before a training: ``mmseg-semi check``.

Looks at all files of every part (labeled, unlabeled, validation and test), at what they hold and at
images that are alike, and makes a few training steps. A finding has the number of its kind, see
docs/checks.md: E for errors, which a training refuses, W for warnings, N for notes. ``check.json``
has all findings with all their files, ``check.html`` shows them with images and the first batch.
The exit status is 1 with an error.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATA_SAMPLERS, DATASETS, MODELS

from mmseg_semi.apis.channel_check import bring_statistics
from mmseg_semi.apis.check_page import color_table, page
from mmseg_semi.apis.first_steps import FirstSteps, first_steps, output_stride
from mmseg_semi.apis.runner_setup import check_data_paths, explaining_built, set_work_dir
from mmseg_semi.apis.start import ignore_library_warnings
from mmseg_semi.datasets.checks import check_heldout, check_parts_overlap, training_parts
from mmseg_semi.datasets.dataset_tree import image_paths, leaf_datasets
from mmseg_semi.datasets.file_records import release_memory
from mmseg_semi.datasets.findings import SEVERITIES, Finding, Findings, finding_of
from mmseg_semi.datasets.labeled_checks import named_twice, verify_labeled
from mmseg_semi.datasets.listed_files import left_out, masks_of_unlabeled
from mmseg_semi.datasets.mixed_images import check_mixed
from mmseg_semi.datasets.object_sizes import check_objects
from mmseg_semi.datasets.part_checks import Part, check_class_names, check_parts
from mmseg_semi.datasets.part_statistics import advice, as_json, table
from mmseg_semi.datasets.samplers import SemiSampler
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.engine.hooks.data_check_hook import check_classes, has_masks
from mmseg_semi.errors import name_some, refusal
from mmseg_semi.files import write_files
from mmseg_semi.utils.config import data_places, is_detector, load_config, parse_tool
from mmseg_semi.utils.config_keys import value_at
from mmseg_semi.utils.weight_checks import check_pretrained, shapes_alone
from mmseg_semi_cli import runs

_MODEL, _NOT_THERE, _CLASSES, _BATCH, _STEP, _WEIGHTS = 1, 2, 3, 4, 50, 53  # kinds of findings


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return parse_tool(runs.check(), argv)


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
    with quiet(), noting(found, _MODEL, f'{key}: '), explaining_built(cfg):
        built = registry.build(copy.deepcopy(wanted))
        if hasattr(built, 'full_init'):
            built.full_init()
        return built
    if registry is DATASETS:
        found.unseen.append(key)
    return None


@contextlib.contextmanager
def noting(found: Findings, kind: int, key: str = '') -> Iterator[None]:
    """Take what a user is told of an error for a finding; a fault of the program stays one.

    Args:
        found: Gets the error.
        kind: Of an error that does not bring its own.
        key: Config key, for one that does not name it.
    """
    try:
        yield
    except Exception as error:
        text = refusal(error)
        if text is None:
            raise
        one = finding_of(error)
        if one is None:
            missing = isinstance(error, FileNotFoundError) and kind == _MODEL
            text = text if key.removesuffix(': ') in text else f'{key}{text}'
            one = Finding(_NOT_THERE if missing else kind, text)
        found.errors.append(one)


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
    heldout = heldout_parts(cfg, found)
    statistics = bring_statistics(cfg, parts, heldout)  # before the model, which reads them
    found.join(statistics)
    for part in parts:
        part.measure = True
    for part in [*parts[:1], *heldout]:
        for leaf in leaf_datasets(part.dataset):
            found.warnings += left_out(leaf, part.key).warnings
    for part in [*parts, *heldout]:
        found.warnings += named_twice(part.dataset, part.key)
    found.join(check_parts([*parts, *heldout]))
    found.join(check_class_names([*parts, *heldout]))
    found.join(check_mixed([*parts, *heldout]))
    if parts:
        overlap = check_parts_overlap(parts, [one.dataset for one in heldout], looks=True)
        found.join(overlap.as_warnings() if overlaps_warn(cfg) else overlap)
        found.warnings += advice([*parts, *heldout], labeled_batch(cfg, train, found))
        if len(parts) > 1:
            found.notes += masks_of_unlabeled(parts[0].dataset, parts[1].dataset)
    if len(heldout) > 1:
        found.join(check_heldout(*(one.dataset for one in heldout)))
    release_memory()  # of the comparisons, before the model takes its own
    stride = None if statistics.errors else check_model(cfg, [*parts[:1], *heldout], found)
    if parts:
        found.warnings += check_objects(parts[0], stride)
    return found, [*parts, *heldout]


def check_model(cfg: Config, labeled: Sequence[Part], found: Findings) -> float | None:
    """Build the model, and compare its classes with those of the data.

    Args:
        cfg: The config.
        labeled: Parts with masks, that of the labeled images first.
        found: Gets the errors.

    Returns:
        Its ``output_stride``, None where it cannot be told.
    """
    model = stride = None
    with contextlib.suppress(Exception), quiet(), shapes_alone():
        model = MODELS.build(copy.deepcopy(cfg.model))
        stride = output_stride(model)
    if stride is None:  # one whose parts compute with weights, or a faulty one
        model = build(cfg, 'model', MODELS, found)
        stride = None if model is None else output_stride(model)
    if model is not None:
        with noting(found, _WEIGHTS):
            check_pretrained(cfg)
        with noting(found, _CLASSES):
            check_classes(model, {part.key: part.dataset for part in labeled})
    return stride


def overlaps_warn(cfg: Config) -> bool:
    """Whether a training goes on where parts share images."""
    hooks = [one for one in cfg.get('custom_hooks') or [] if isinstance(one, Mapping)]
    return any(one.get('on_overlap') == 'warn' for one in hooks)


def heldout_parts(cfg: Config, found: Findings) -> list[Part]:
    """The validation part, and the test part where it has other images.

    Args:
        cfg: The config.
        found: Gets the errors.
    """
    parts: list[Part] = []
    for name in ('val', 'test'):
        key, before = f'{name}_dataloader.dataset', len(found.errors)
        with noting(found, _MODEL):
            check_data_paths(cfg, (name,))
        dataset = build(cfg, key, DATASETS, found) if len(found.errors) == before else None
        if dataset is not None and all(_files(dataset) != _files(one.dataset) for one in parts):
            with quiet(), noting(found, _MODEL, f'{key}: '):
                for leaf in leaf_datasets(dataset):
                    verify_labeled(leaf, key, masks=has_masks(leaf))
                parts.append(Part(key, dataset, name))
        if len(found.errors) > before and key not in found.unseen:
            found.unseen.append(key)
    return parts


def _files(dataset: Any) -> list[list[str]]:
    return [list(image_paths(leaf)) for leaf in leaf_datasets(dataset)]


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
    with noting(found, _BATCH):
        sampler = DATA_SAMPLERS.build(wanted)
        if not isinstance(sampler, SemiSampler):
            return size
        sampler.set_batch_size(size)
        return sampler.samples_per_batch['labeled']
    return 0


def try_steps(cfg: Config, found: Findings, parts: Sequence[Part]) -> FirstSteps | None:
    """Make some training steps; whatever they raise is an error.

    Args:
        cfg: The config.
        found: Gets the error.
        parts: All parts.
    """
    try:
        with quiet(), explaining_built(cfg):
            return first_steps(cfg, color_table(parts))
    except Exception as error:  # a user's network can raise anything
        reason = refusal(error) or f'{type(error).__name__}: {error}'
        text = f'a training step cannot be made: {reason.strip().splitlines()[0].rstrip(".")}.'
        remedy = 'Correct the config; mmseg-semi --traceback train shows where it comes from.'
        found.errors.append(Finding(_STEP, text, remedy))
        return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep from the console what is logged: it is among the findings."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main(argv: Sequence[str] | None = None) -> None:
    """Check."""
    args = parse_args(argv)
    if args.out and Path(args.out).is_file():
        raise SystemExit(
            f'--out {args.out} is a file: name a folder, for check.json and check.html'
        )
    cfg = load_config(args.config, args.cfg_options)
    if is_detector(cfg):
        raise SystemExit(f'{args.config}: the config of a detector; check looks at segmentors')
    set_work_dir(cfg, args.out, args.config)
    ignore_library_warnings()
    steps = None
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        found, parts = check_data(cfg)
        if not found.errors and not args.no_steps:
            steps = try_steps(cfg, found, parts)
    print('\n'.join(table(parts)))
    for _, number, one in found.numbered():
        print(f'{number} {one}')
        if one.files and one.files[0] not in one:
            print(f'    {name_some([*one.files])}')
    if steps is not None:
        print(steps.text())
    elif not args.no_steps:
        print('no training step was made, because of the errors')
    if found.unseen:
        print(
            f'not looked at, because of the errors: {", ".join(found.unseen)}; correct them and '
            'run this again'
        )
    folder = Path(cfg.work_dir)
    content = dict(
        config=args.config,
        data=data_places(cfg),
        findings=found.as_json(),
        not_looked_at=found.unseen,
        parts=[as_json(part) for part in parts],
        training=None if steps is None else steps.as_json(),
    )
    write_files(
        {
            folder / 'check.json': json.dumps(content, indent=1),
            folder / 'check.html': page(args.config, found, parts, steps),
        }
    )
    severities = [severity for severity, _, _ in found.numbered()]
    counts = ', '.join(f'{severities.count(one)} {one}s' for one in SEVERITIES)
    print(f'{counts}; all files in {folder / "check.json"}, pictures in {folder / "check.html"}')
    sys.exit(1 if found.errors else 0)
