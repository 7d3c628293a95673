"""Turn checkpoints of the UniMatch family, and DINOv2 and CLIP of Hugging Face, into our models'.

IN.pth is a DeepLabV3+ on ResNet-50 or 101 with a deep stem (64, 64, 128 channels), or such a
backbone alone (ImageNet weights); or UniMatch V2's network; or DINOv2 or CLIP's vision transformer
of transformers (model.safetensors, pytorch_model.bin). OUT.pth holds an EncoderDecoder of
ResNetV1c and DeepLabV3PlusHead, which load_from takes for it and for a SemiSegmentor around it, or
the backbone for the segmentor's pretrained=OUT.pth. The config lines that fit are printed.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from mmseg_semi.errors import name_some
from mmseg_semi.files import check_there, write_file
from mmseg_semi.utils.safe_checkpoints import read_checkpoint
from mmseg_semi.zoo import clip_names, dinov2_names

WRAPPER = 'module.'
BACKBONE = 'backbone.'
HOLDERS = dict(student=('model', 'state_dict'), teacher=('model_ema',))
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPECTED = (
    'a DeepLabV3+ (keys head.b0 to head.b4, head.project, reduce, fuse, classifier) on a ResNet-50 '
    'or 101 with a deep stem (conv1.0, conv1.3, conv1.6 of 64, 64, 128 channels), or such a '
    'backbone alone'
)
NORM = ('weight', 'bias', 'running_mean', 'running_var')
COUNTER = 'num_batches_tracked'  # of a norm; may be missing
LISTED = 6  # keys named in a message
STRIDES = {
    16: ('strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)', '(6, 12, 18)'),
    8: ('strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)', '(12, 24, 36)'),
}
# Name in the file, name in mmseg's model, shape of the weight; a norm has the number of channels.
Layer = tuple[str, str, tuple[int, ...]]
# Name in mmseg's model and shape of each tensor, by its name in the file.
Wanted = dict[str, tuple[str, tuple[int, ...]]]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='IN.pth', help='checkpoint to read')
    parser.add_argument('out', metavar='OUT.pth', help='checkpoint to write')
    parser.add_argument(
        '--what',
        choices=['auto', 'model', 'backbone'],
        default='auto',
        help='what to write; auto: the model if IN.pth has a decoder, else the backbone',
    )
    parser.add_argument(
        '--which',
        choices=sorted(HOLDERS),
        default='student',
        help='the network to take when the file holds an EMA teacher (model_ema) too',
    )
    parser.add_argument(
        '--drop',
        nargs='+',
        default=[],
        metavar='PREFIX',
        help='leave out the keys that start so, such as the correlation layers of CorrMatch',
    )
    args = parser.parse_args(argv)
    if not args.out.endswith('.pth'):
        parser.error(f'OUT.pth must end in .pth, got {args.out}')
    if Path(args.out).resolve() == Path(args.source).resolve():
        parser.error(f'OUT.pth is IN.pth ({args.out}); give another name')
    return args


# ---------------------------------------------------------------------------------- the key layout
def backbone_layers(depth: int) -> Iterator[Layer]:
    """List the layers of a backbone."""
    inputs = 3
    for i, channels in zip((0, 3, 6), (64, 64, 128)):
        yield f'conv1.{i}', f'stem.{i}', (channels, inputs, 3, 3)
        norm = f'conv1.{i + 1}' if i < 6 else 'bn1'
        yield norm, f'stem.{i + 1}', (channels,)
        inputs = channels
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        width = 32 * 2**stage
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            shapes = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            parts = [(f'{i}', shape) for i, shape in enumerate(shapes, start=1)]
            for number, shape in parts:
                yield f'{name}.conv{number}', f'{name}.conv{number}', shape
                yield f'{name}.bn{number}', f'{name}.bn{number}', shape[:1]
            if block == 0:
                shape = (4 * width, inputs, 1, 1)
                yield f'{name}.downsample.0', f'{name}.downsample.0', shape
                yield f'{name}.downsample.1', f'{name}.downsample.1', shape[:1]
            inputs = 4 * width


def head_layers() -> Iterator[Layer]:
    """List the layers of the decoder but the classifier."""
    pairs = [('head.b0', (0, 1), 'aspp_modules.0', (256, 2048, 1, 1))]
    pairs += [(f'head.b{i}', (0, 1), f'aspp_modules.{i}', (256, 2048, 3, 3)) for i in (1, 2, 3)]
    pairs += [
        ('head.b4.gap', (1, 2), 'image_pool.1', (256, 2048, 1, 1)),
        ('head.project', (0, 1), 'bottleneck', (256, 1280, 1, 1)),
        ('reduce', (0, 1), 'low_level', (48, 256, 1, 1)),
        ('fuse', (0, 1), 'fuse.0', (256, 304, 3, 3)),
        ('fuse', (3, 4), 'fuse.1', (256, 256, 3, 3)),
    ]
    for source, (conv, norm), target, shape in pairs:
        yield f'{source}.{conv}', f'decode_head.{target}.conv', shape
        yield f'{source}.{norm}', f'decode_head.{target}.bn', shape[:1]


def model_layers(depth: int) -> Iterator[Layer]:
    """List the layers of a model but the classifier."""
    for source, target, shape in backbone_layers(depth):
        yield BACKBONE + source, BACKBONE + target, shape
    yield from head_layers()


def layout(layers: Iterator[Layer], classes: Optional[int] = None) -> tuple[Wanted, dict[str, str]]:
    """List the tensors of layers and of a classifier for so many classes, and the counters."""
    wanted: Wanted = {}
    counters: dict[str, str] = {}
    for source, target, shape in layers:
        is_norm = len(shape) == 1
        for part in NORM if is_norm else ('weight',):
            wanted[f'{source}.{part}'] = (f'{target}.{part}', shape)
        if is_norm:
            counters[f'{source}.{COUNTER}'] = f'{target}.{COUNTER}'
    if classes is not None:
        for part, shape in (('weight', (classes, 256, 1, 1)), ('bias', (classes,))):
            wanted[f'classifier.{part}'] = (f'decode_head.conv_seg.{part}', shape)
    return wanted, counters


# ----------------------------------------------------------------------------------------- reading
def read(path: str) -> Any:
    """Read a file with torch's safe loader, or safetensors'."""
    if path.endswith('.safetensors'):
        check_there(path, 'Correct the path.', 'IN.pth')
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise SystemExit(
                f"{path}: safetensors is not installed; install it with pip install -e '.[hf]'"
            ) from error
        try:
            return load_file(path)
        except Exception as error:  # safetensors has one of its own for a damaged file
            raise SystemExit(f'{path}: cannot be read ({error}); fetch it again') from error
    return read_checkpoint(path, 'IN.pth')


def is_state(node: Any) -> bool:
    """Whether this is a state dict."""
    return (
        isinstance(node, Mapping)
        and len(node) > 0
        and all(isinstance(value, Tensor) for value in node.values())
    )


def take_state(content: Any, which: str, path: str) -> dict[str, Tensor]:
    """Find the state dict of the student or the teacher, ``module.`` taken off its keys."""
    found = content if which == 'student' and is_state(content) else None
    if found is None and isinstance(content, Mapping):
        holders = [content[key] for key in HOLDERS[which] if is_state(content.get(key))]
        found = holders[0] if holders else None
    if found is None:
        held = ', '.join(map(str, content)) if isinstance(content, Mapping) else type(content)
        values = content.values() if isinstance(content, Mapping) else ()
        if not any(isinstance(value, Tensor) for value in values):
            held = f'{held or "nothing"} (no tensors at the top)'
        if is_state(content):
            held = 'a plain state dict'
        raise SystemExit(
            f'{path}: no state dict of the {which} under {" or ".join(HOLDERS[which])}; the file '
            f'holds: {held}. Choose with --which, or save the state dict alone to a file.'
        )
    if all(key.startswith(WRAPPER) for key in found):
        return {key[len(WRAPPER) :]: value for key, value in found.items()}
    return dict(found)


def drop(state: dict[str, Tensor], prefixes: Sequence[str], path: str) -> dict[str, Tensor]:
    """Leave out keys by prefix, and the ImageNet classifier of a backbone."""
    for prefix in prefixes:
        if not any(key.startswith(prefix) for key in state):
            raise SystemExit(f'--drop {prefix}: {path} has no key that starts so; leave it out')
    left_out = (*prefixes, 'fc.', f'{BACKBONE}fc.')
    return {key: value for key, value in state.items() if not key.startswith(left_out)}


# ---------------------------------------------------------------------------------------- checking
def find_depth(state: Mapping[str, Tensor], prefix: str, path: str) -> int:
    """Depth of the ResNet, from the number of blocks of its third stage."""
    start = f'{prefix}layer3.'
    blocks = {key[len(start) :].split('.')[0] for key in state if key.startswith(start)}
    for depth, counts in BLOCKS.items():
        if len(blocks) == counts[2]:
            return depth
    raise SystemExit(
        f'{path}: no ResNet-50 or 101 in it: {len(blocks)} block(s) {start}*, not 6 or 23; first '
        f'keys: {name_some(list(state), LISTED)}. Expected: {EXPECTED}. Xception-65 checkpoints of '
        'this family can not be converted: the names of their layers are not known to this tool.'
    )


def refuse_differences(
    state: Mapping[str, Tensor], wanted: Wanted, optional: Mapping[str, str], path: str
) -> None:
    """Refuse missing keys, unknown keys and other shapes, by name."""
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted and name not in optional]
    wrong = [
        f'{name} {tuple(state[name].shape)} instead of {shape}'
        for name, (_, shape) in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    problems = [
        f'{len(names)} key(s) {what}: {name_some(names, LISTED)}{remedy}'
        for what, names, remedy in (
            ('missing', missing, ''),
            ('unknown', unknown, ' (--drop PREFIX leaves keys out)'),
            ('of another shape', wrong, ''),
        )
        if names
    ]
    if problems:
        raise SystemExit(f'{path}: {"; ".join(problems)}. Expected: {EXPECTED}; give such a file.')


# -------------------------------------------------------------------------------------- converting
def choose_part(state: Mapping[str, Tensor], what: str, path: str) -> str:
    """Whether to write the model or the backbone."""
    whole = any(key.startswith(BACKBONE) for key in state)
    if what == 'model' and not whole:
        raise SystemExit(
            f'--what model: {path} has no key {BACKBONE}*; first keys: '
            f'{name_some(list(state), LISTED)}. It may be a backbone alone: use --what backbone'
        )
    return what if what != 'auto' else 'model' if whole else 'backbone'


def convert(
    state: dict[str, Tensor], part: str, path: str
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Rename the tensors.

    Args:
        state: What the file holds.
        part: ``'model'`` or ``'backbone'``.
        path: The file, for messages.

    Returns:
        The state dict for mmseg, and depth and number of classes.
    """
    if part == 'backbone':
        if any(key.startswith(BACKBONE) for key in state):  # of a whole model
            state = {k[len(BACKBONE) :]: v for k, v in state.items() if k.startswith(BACKBONE)}
        facts = dict(depth=find_depth(state, '', path))
        wanted, counters = layout(backbone_layers(facts['depth']))
    else:
        classifier = state.get('classifier.weight')
        classes = len(classifier) if classifier is not None and classifier.dim() else 0
        facts = dict(depth=find_depth(state, BACKBONE, path), num_classes=classes)
        wanted, counters = layout(model_layers(facts['depth']), classes)
    refuse_differences(state, wanted, counters, path)
    out = {target: state[source].float().clone() for source, (target, _) in wanted.items()}
    for source, target in counters.items():
        out[target] = state.get(source, torch.zeros(())).long().clone()
    return out, facts


def report(facts: Mapping[str, int], part: str, out: str) -> None:
    """Print the config lines that fit."""
    classes = f', {facts["num_classes"]} classes' if part == 'model' else ''
    print(f'ResNet-{facts["depth"]}{classes}. Config lines that fit:')
    print(
        f"  backbone: type='ResNetV1c', depth={facts['depth']}, stem_channels=128, "
        'contract_dilation=True,'
    )
    for stride, (lines, _) in STRIDES.items():
        print(f'    output stride {stride}: {lines}')
    if part == 'backbone':
        print(f'  segmentor: pretrained={out!r}')
        return
    print(f"  decode_head: type='DeepLabV3PlusHead', num_classes={facts['num_classes']},")
    for stride, (_, dilations) in STRIDES.items():
        print(f'    dilations={dilations} is usual with output stride {stride}; not in the file')
    print(f'  load_from={out!r}')


def main(argv: Sequence[str] | None = None) -> None:
    """Convert."""
    args = parse_args(argv)
    state = take_state(read(args.source), args.which, args.source)
    state = drop(state, args.drop, args.source)
    kind = dinov2_names.kind_of(state)
    show = report
    if kind:
        part, converted, facts = dinov2_names.convert(state, kind, args.what, args.source)
        show = dinov2_names.report
    elif clip_names.PROJECTION in state:
        part, show = 'backbone', clip_names.report
        converted, facts = clip_names.convert(state, args.what, args.source)
    else:
        part = choose_part(state, args.what, args.source)
        converted, facts = convert(state, part, args.source)
    buffer = io.BytesIO()
    torch.save(dict(meta=dict(part=part, **facts), state_dict=converted), buffer)
    out, content = Path(args.out), buffer.getvalue()
    if out.is_file() and out.read_bytes() == content:
        print(f'{out} is there already')
    else:
        write_file(out, content)
        print(f'wrote {out} ({part}, {len(converted)} tensors)')
    show(facts, part, args.out)
