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
from mmseg.registry import DATASETS

from mmseg_semi.apis.runner_setup import set_work_dir
from mmseg_semi.datasets.checks import check_overlap
from mmseg_semi.datasets.labeled_checks import fill_num_classes
from mmseg_semi.datasets.mask_checks import Findings
from mmseg_semi.datasets.part_checks import Part, check_parts
from mmseg_semi.datasets.part_statistics import advice, as_json, statistics_of, table
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.errors import refusal
from mmseg_semi.files import write_file
from mmseg_semi.utils.config import CfgOptions, is_detector, load_config


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


def build_parts(cfg: Config, found: Findings) -> list[Part]:
    """Build the datasets of a config; what cannot be built is an error.

    Args:
        cfg: The config.
        found: Gets the errors.
    """
    parts: list[Part] = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        for name in ('train', 'val', 'test'):
            key = f'{name}_dataloader.dataset'
            wanted = (cfg.get(f'{name}_dataloader') or {}).get('dataset')
            if not isinstance(wanted, Mapping):
                continue
            try:
                dataset = DATASETS.build(copy.deepcopy(wanted))
                parts += _parts_of(key, name, dataset)
            except Exception as error:
                if refusal(error) is None:
                    raise
                found.errors.append(f'{key}: {refusal(error)}')
    return parts


def _parts_of(key: str, role: str, dataset: Any) -> list[Part]:
    if not isinstance(dataset, SemiDataset):
        fill_num_classes(dataset, key)
        return [Part(key, dataset, role)]
    skip = dataset.on_error == 'skip'
    parts = [Part(f'{key}.labeled', dataset.labeled, role, skip)]
    if dataset.unlabeled is not None:
        parts.append(Part(f'{key}.unlabeled', dataset.unlabeled, 'unlabeled', skip))
    return parts


def check_data(cfg: Config) -> tuple[Findings, dict[str, Any], list[str]]:
    """Look at all data of a config.

    Args:
        cfg: The config.

    Returns:
        What was found, the numbers of the parts, and a table of them.
    """
    found = Findings()
    parts = build_parts(cfg, found)
    by_role = {part.role: part.dataset for part in parts}
    for one in (check_parts(_once(parts)), _overlap(by_role)):
        found.errors += one.errors
        found.warnings += one.warnings
    numbers = [statistics_of(part) for part in parts]
    size = (cfg.get('train_dataloader') or {}).get('batch_size', 1)
    found.warnings += list(advice(numbers, _batch(cfg, int(size))))
    return found, dict(parts=[as_json(one) for one in numbers]), table(numbers)


def _once(parts: Sequence[Part]) -> list[Part]:
    """Parts without a test part that is the validation part."""
    seen: list[Part] = []
    for part in parts:
        names = [str(one) for one in getattr(part.dataset, 'data_prefix', {}).values()]
        again = part.role == 'test' and any(
            one.role == 'val'
            and names == [str(n) for n in getattr(one.dataset, 'data_prefix', {}).values()]
            and getattr(one.dataset, 'ann_file', None) == getattr(part.dataset, 'ann_file', None)
            for one in seen
        )
        seen += [] if again else [part]
    return seen


def _overlap(by_role: Mapping[str, Any]) -> Findings:
    if 'train' not in by_role:
        return Findings()
    heldout = [by_role[name] for name in ('val', 'test') if name in by_role]
    return check_overlap(by_role['train'], by_role.get('unlabeled'), heldout)


def _batch(cfg: Config, size: int) -> dict[str, int]:
    """Images of a batch, by kind."""
    ratio = ((cfg.get('train_dataloader') or {}).get('sampler') or {}).get('ratio')
    if not ratio:
        return dict(labeled=size)
    labeled = size * ratio[0] // sum(ratio)
    return dict(labeled=labeled, unlabeled=size - labeled)


def main(argv: Sequence[str] | None = None) -> None:
    """Check."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    if is_detector(cfg):
        raise SystemExit(f'{args.config}: the config of a detector; check looks at segmentors')
    set_work_dir(cfg, args.out, args.config)
    found, numbers, lines = check_data(cfg)
    print('\n'.join(lines))
    named = [
        dict(number=f'{severity[0].upper()}{i}', severity=severity, text=text)
        for severity, texts in (('error', found.errors), ('warning', found.warnings))
        for i, text in enumerate(dict.fromkeys(texts), 1)
    ]
    for one in named:
        print(f'{one["number"]} {one["text"]}')
    path = Path(cfg.work_dir, 'check.json')
    write_file(path, json.dumps(dict(config=args.config, findings=named, **numbers), indent=1))
    errors = sum(one['severity'] == 'error' for one in named)
    print(f'{errors} errors, {len(named) - errors} warnings, all numbers in {path}')
    sys.exit(1 if errors else 0)
