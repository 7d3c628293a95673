"""Write a checkpoint's student or teacher as a plain mmseg model: ``mmseg-semi extract``.

Two files come out, OUT.pth and OUT.py: a checkpoint with tensors and plain values only, and a
config that mmseg tests, serves and fine-tunes without mmseg_semi.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmseg.registry import MODELS, TRANSFORMS

from mmseg_semi.apis.saved_model import find_config, tested_dataset
from mmseg_semi.apis.start import ignore_library_warnings
from mmseg_semi.datasets.listed_files import suffixes_there
from mmseg_semi.engine.hooks.run_record_hook import RECORD_KEY
from mmseg_semi.files import write_files
from mmseg_semi.models.segmentors import is_semi
from mmseg_semi.structures import read_statistics
from mmseg_semi.utils.config import load_config, parse_tool
from mmseg_semi.utils.safe_checkpoints import read_checkpoint
from mmseg_semi.utils.weight_checks import build_shapes, check_checkpoint
from mmseg_semi_cli import runs

PACKAGE = __name__.split('.')[0]
PREFIXES = dict(student='segmentor.', teacher='teacher.')
# Checks of the user's data; a plain mmseg installation does not have them.
OWN_CHECKS = ('CheckAnnotations',)
KEPT_KEYS = (
    'default_scope',
    'env_cfg',
    'vis_backends',
    'visualizer',
    'log_processor',
    'log_level',
    'val_dataloader',
    'test_dataloader',
    'val_evaluator',
    'test_evaluator',
    'val_cfg',
    'test_cfg',
    'tta_model',
    'tta_pipeline',
)


def config_path(out: str) -> str:
    """Where the config goes, beside the checkpoint."""
    return out[: -len('.pth')] + '.py'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = runs.extract()
    args = parse_tool(parser, argv)
    args.config = args.config or find_config(args.checkpoint)
    if not args.out.endswith('.pth'):
        parser.error(f'--out must end in .pth, got {args.out}')
    for name, path in (('checkpoint', args.out), ('config', config_path(args.out))):
        given = getattr(args, name)
        if os.path.realpath(path) == os.path.realpath(given):
            parser.error(
                f'{path} would be written in the place of the {name} {given}: name another'
            )
    return args


def plain_model(model: dict[str, Any]) -> dict[str, Any]:
    """Take the segmentor's config out of a SemiSegmentor's; one that trains alone is its own."""
    semi = is_semi(model)
    segmentor = copy.deepcopy(model['segmentor'] if semi else model)
    inner = segmentor.pop('data_preprocessor', None)
    given = (model.get('data_preprocessor') if semi else None) or inner
    preprocessor = plain_preprocessor(dict(given or {}))
    # Weights come from the checkpoint, not from a file of the training machine.
    segmentor.get('backbone', {}).pop('init_cfg', None)
    segmentor.pop('pretrained', None)
    return {**segmentor, 'data_preprocessor': preprocessor}


def plain_preprocessor(preprocessor: dict[str, Any]) -> dict[str, Any]:
    """The config of mmseg's data preprocessor, with the numbers of a file of statistics."""
    if preprocessor.get('statistics'):
        built = MODELS.build(dict(preprocessor, type='SemiDataPreprocessor'))
        preprocessor.update(mean=built.mean.flatten().tolist(), std=built.std.flatten().tolist())
    own = ('in_channels', 'statistics')
    kept = {name: value for name, value in preprocessor.items() if name not in own}
    return {**kept, 'type': 'SegDataPreProcessor'}


def plain_loading(node: Any) -> Any:
    """Load photographs as mmseg does; other images are left to ``LoadChannels``."""
    if isinstance(node, (list, tuple)):
        return type(node)(plain_loading(value) for value in node)
    if not isinstance(node, dict):
        return node
    if node.get('type') != 'LoadChannels':
        return {key: plain_loading(value) for key, value in node.items()}
    kept, channels = {**node}, node.get('in_channels', 3)
    path = kept.pop('statistics', None)  # which augmentations read
    found = read_statistics(path, channels) if path else None
    if channels != 3 or (found is not None and found.dtype != 'uint8'):
        return kept
    kept.pop('in_channels', None)
    return {**kept, 'type': 'LoadImageFromFile'}


def drop_own_checks(node: Any) -> Any:
    """Remove this package's checks from pipelines."""
    if isinstance(node, dict):
        return {key: drop_own_checks(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(
            drop_own_checks(value)
            for value in node
            if not (isinstance(value, dict) and value.get('type') in OWN_CHECKS)
        )
    return node


def student_only(evaluator: Any) -> Any:
    """Keep the evaluators that read a plain segmentor's prediction."""
    several = isinstance(evaluator, (list, tuple))
    kept = [e for e in (evaluator if several else [evaluator]) if e['type'] != 'TeacherIoUMetric']
    return kept if several else kept[0]


def one_suffix(node: Any) -> Any:
    """Give datasets the suffix that all their images have, in place of several.

    mmseg reads one. Where images have several, or are not there, the config stays as it is.
    """
    if isinstance(node, list):
        return [one_suffix(value) for value in node]
    if not isinstance(node, dict):
        return node
    node = {key: one_suffix(value) for key, value in node.items()}
    if _has_several_suffixes(node):
        folder = (node.get('data_prefix') or {}).get('img_path') or ''
        found = suffixes_there(
            os.path.join(node.get('data_root') or '', folder), node['img_suffix']
        )
        if len(found) == 1:
            node['img_suffix'] = found.pop()
    return node


def _has_several_suffixes(node: dict[str, Any]) -> bool:
    return not isinstance(node.get('img_suffix', ''), str)


def own_types(node: Any) -> list[str]:
    """List what of this package a config still uses: component types, and several suffixes."""
    found: list[str] = []
    if isinstance(node, dict):
        found += ['several values of img_suffix'] if _has_several_suffixes(node) else []
        kind: Any = node.get('type')
        # A type of another package is none of ours, and looking it up would import the package.
        known = isinstance(kind, str) and kind.rpartition('.')[0] in ('', 'mmseg')
        for registry in (MODELS, TRANSFORMS):
            entry = registry.get(kind) if known else None
            if entry is not None and entry.__module__.split('.')[0] == PACKAGE:
                found.append(kind)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        found += [kind for value in node for kind in own_types(value)]
    return sorted(set(found))


def plain_config(cfg: Config) -> Config:
    """Make the config of the plain segmentor."""
    kept = {
        key: one_suffix(plain_loading(drop_own_checks(cfg[key])))
        for key in KEPT_KEYS
        if cfg.get(key) is not None
    }
    for key in ('val_evaluator', 'test_evaluator'):
        if key in kept:
            kept[key] = student_only(kept[key])
    kept['model'] = plain_model(cfg.model)
    if 'test_dataloader' in kept:  # where mmseg's inference_model looks for it
        kept['test_pipeline'] = tested_dataset(Config(kept)).pipeline
    pictures = (cfg.get('default_hooks') or {}).get('visualization')
    if pictures:
        own = dict(type='SegVisualizationHook') if pictures.type == 'PredictionPictureHook' else {}
        kept['default_hooks'] = dict(visualization={**pictures, **own})
    ours = own_types(kept)
    if ours:
        print(f'the config keeps components of mmseg_semi and imports it: {", ".join(ours)}')
        kept['custom_imports'] = dict(imports=[PACKAGE])
    return Config(kept)


def plain_checkpoint(checkpoint: dict[str, Any], which: str) -> dict[str, Any]:
    """Take the weights of the student or the teacher out of a checkpoint."""
    names = checkpoint['state_dict']
    alone = which == 'student' and not any(name.startswith(PREFIXES[which]) for name in names)
    prefix = '' if alone else PREFIXES[which]
    state = {key[len(prefix) :]: value for key, value in names.items() if key.startswith(prefix)}
    if not state:
        raise SystemExit(
            f"the checkpoint has no '{prefix}*' weights: it was trained without a {which}, "
            'choose another one with --which'
        )
    meta = checkpoint.get('meta', {})
    data = dict(meta.get('dataset_meta') or {})
    kept = dict(
        dataset_meta={key: data[key] for key in ('classes', 'palette') if data.get(key) is not None}
    )
    if meta.get(RECORD_KEY) is not None:  # split, batch and seed of the run
        kept[RECORD_KEY] = meta[RECORD_KEY]
    return dict(meta=kept, state_dict=state)


def main(argv: Sequence[str] | None = None) -> None:
    """Extract."""
    args = parse_args(argv)
    ignore_library_warnings()
    cfg = plain_config(load_config(args.config, args.cfg_options, unread=True))
    checkpoint = read_checkpoint(args.checkpoint)
    plain = plain_checkpoint(checkpoint, args.which)
    network, state = build_shapes(cfg.model), plain['state_dict']
    if args.which == 'teacher' and not state.keys() & network.state_dict().keys():
        parts = ', '.join(sorted({key.split('.')[0] for key in state}))
        raise SystemExit(
            f'--which teacher: the teacher of {args.checkpoint} is made of others ({parts}) and '
            'has no network of its own that could be written: use --which student'
        )
    try:
        check_checkpoint(network, plain, training=False)
    except ValueError as error:
        raise SystemExit(f'{args.checkpoint}: {error}') from error
    content = io.BytesIO()
    torch.save(plain, content)
    config_out = config_path(args.out)
    write_files({Path(args.out): content.getvalue(), Path(config_out): cfg.pretty_text})
    print(f'wrote {args.out} and {config_out} ({args.which}, {len(plain["state_dict"])} tensors)')
