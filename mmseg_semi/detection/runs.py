"""Training and testing mmdet's detectors with this project's tools.

A config with ``default_scope = 'mmdet'`` is a detector's. mmdet is imported for those alone.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log

from mmseg_semi.files import check_paths, is_local, read_json
from mmseg_semi.utils.safe_checkpoints import read_checkpoint
from mmseg_semi.utils.weight_checks import trained_classes

CONVERTER = 'tools/dataset_converters/masks_to_coco.py'
PART = '.part'


def dataset_classes(dataset: Mapping[str, Any]) -> list[str] | None:
    """Class names of a detection dataset's config, in order; None when it has none."""
    from mmdet.registry import DATASETS

    entry = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    if not hasattr(entry, '_load_metainfo'):
        return None
    classes = entry._load_metainfo(dataset.get('metainfo')).get('classes')
    return None if classes is None else list(classes)


def annotated_datasets(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Dataset configs with a COCO annotation file, wrapped or not, with their config keys."""
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from annotated_datasets(value, f'{key}[{i}]')
    elif isinstance(node, Mapping):
        if str(node.get('ann_file') or '').endswith('.json'):
            yield key, node
        for name in ('dataset', 'datasets'):
            yield from annotated_datasets(node.get(name), f'{key}.{name}')


def check_detection_data(cfg: Config, parts: Sequence[str]) -> None:
    """Refuse missing folders and annotation files, and annotations of other classes.

    mmdet looks the classes up by name and numbers those that it finds in the file's order, so a
    file with other categories, or with the same ones in another order, gives wrong labels silently.

    Args:
        cfg: A detector's config.
        parts: Of ``'train'``, ``'val'`` and ``'test'`` those that are going to be read.

    Raises:
        FileNotFoundError: A folder or an annotation file is missing.
        ValueError: An annotation file is no COCO file, has no image, or has other classes than the
            config; a ``CocoMetric`` that reads another file than the dataset.
    """
    for part in parts:
        dataset = (cfg.get(f'{part}_dataloader') or {}).get('dataset')
        files = []
        for key, leaf in annotated_datasets(dataset, f'{part}_dataloader.dataset'):
            if is_local(leaf.get('backend_args')):
                files.append(_check_dataset(leaf, key))
        for key, metric in _coco_metrics(cfg, part):
            given = metric.get('ann_file')
            if files and given and os.path.abspath(given) not in files:
                raise ValueError(
                    f'{key}.ann_file is {given}, but {part}_dataloader.dataset reads '
                    f'{", ".join(files)}. Make them the same file.'
                )


def _check_dataset(dataset: Mapping[str, Any], key: str) -> str:
    """Check one dataset config and return the absolute path of its annotation file."""
    path = os.path.join(dataset.get('data_root') or '', dataset['ann_file'])
    categories = _read_categories(path, f'{key}.ann_file')
    folders = {name: dataset[name] for name in ('data_root', 'data_prefix') if name in dataset}
    check_paths(folders, key)
    classes = dataset_classes(dataset)
    if classes is not None and categories != classes:
        raise ValueError(
            f'{key}: the categories of {path} are {_names(categories)}, but the classes of the '
            f'config are {_names(classes)}. They must be the same names in the same order: correct '
            f'metainfo.classes (and num_classes of the model), or write the file anew with '
            f'{CONVERTER}.'
        )
    return os.path.abspath(path)


def _read_categories(path: str, key: str) -> list[str]:
    """Names of the categories of a COCO annotation file, in its order."""
    remedy = f'Correct data_root or ann_file, or make the file: python {CONVERTER}.'
    content = read_json(path, remedy, key, 'annotation file')
    try:
        images, categories = content['images'], [entry['name'] for entry in content['categories']]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{key}: {path} is no COCO annotation file with 'images' and 'categories' "
            f'({type(error).__name__}: {error}). Write it anew: python {CONVERTER}.'
        ) from error
    if not images:
        raise ValueError(f'{key}: {path} lists no image. Write it anew: python {CONVERTER}.')
    return categories


def _names(names: Sequence[str]) -> str:
    return f'({", ".join(map(str, names))})'


def _coco_metrics(cfg: Config, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
    evaluators = cfg.get(f'{part}_evaluator') or []
    several = isinstance(evaluators, (list, tuple))
    for i, metric in enumerate(evaluators if several else [evaluators]):
        if str(metric.get('type')).split('.')[-1] == 'CocoMetric':
            yield f'{part}_evaluator' + (f'[{i}]' if several else ''), metric


def check_checkpoint_classes(cfg: Config, path: str) -> None:
    """Refuse a checkpoint that was trained for other classes than the test data have.

    Args:
        cfg: A detector's config.
        path: Checkpoint file. One at an address is not looked at.

    Raises:
        SystemExit: Names the classes of both.
    """
    if '://' in path:
        return
    trained = trained_classes(read_checkpoint(path))
    if trained is None:
        print_log(f'checkpoint {path} does not say its classes: they were not compared')
        return
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    for key, leaf in annotated_datasets(dataset, 'test_dataloader.dataset'):
        classes = dataset_classes(leaf)
        if classes is not None and classes != trained:
            raise SystemExit(
                f'checkpoint {path}: it was trained for the classes {_names(trained)}, but those '
                f'of {key} are {_names(classes)}. Name a checkpoint of this config, or the config '
                'of this checkpoint.'
            )


@contextmanager
def complete_results(cfg: Config, out: str | None = None) -> Iterator[None]:
    """Let the COCO results files of a test appear complete or not at all.

    Build and run the test inside: the files are written beside their final names and renamed at
    the end. A test that fails leaves what was there before.

    Args:
        cfg: A detector's config, changed in place.
        out: Name of the boxes' results file, ending in ``.json``; None for
            ``<test_evaluator.outfile_prefix>.bbox.json``.

    Raises:
        SystemExit: ``out`` does not end in ``.json``, or the config has not exactly one
            ``CocoMetric`` that could write it.
    """
    metrics = [metric for _, metric in _coco_metrics(cfg, 'test')]
    if out is not None:
        if not out.endswith('.json'):
            raise SystemExit(
                f"--out {out}: a detector's boxes go into one COCO results file: name a file that "
                'ends in .json'
            )
        if len(metrics) != 1:
            raise SystemExit(
                f"--out {out} needs exactly one metric of type 'CocoMetric' in test_evaluator, the "
                f'config has {len(metrics)}'
            )
        metrics[0]['outfile_prefix'] = out[: -len('.json')]
    finals = [metric['outfile_prefix'] for metric in metrics if metric.get('outfile_prefix')]
    for metric in metrics:
        if metric.get('outfile_prefix'):
            metric['outfile_prefix'] += PART
    try:
        yield
        if is_main_process():
            for final in finals:
                _publish(final, out)
        barrier()
    finally:
        if is_main_process():
            for final in finals:
                for part in _parts(final):
                    os.remove(part)


def _parts(final: str) -> list[str]:
    return glob.glob(f'{glob.escape(final)}{PART}.*.json')


def _publish(final: str, out: str | None) -> None:
    for part in _parts(final):
        target = final + part[len(final + PART) :]
        if out is not None and target == f'{final}.bbox.json':
            target = out
        with open(part, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        print_log(f'results file: {target}', logger='current')
