"""Write the configs of the papers' tables, and what lists them.

From configs/*/tables.yml and ablations.yml follow: the config of every row and of every detector
that its boxes need, the tables in the methods' README.md (between two marks), metafile.yml and
model-index.yml. --check writes nothing and fails when a file differs from what would be written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mmseg_semi.datasets.benchmark_layouts import BENCHMARK_LAYOUTS
from mmseg_semi.files import shipped_root, write_files
from mmseg_semi.zoo.paper_tables import CLASSIC, DIGIT_SCENES, Method, Row, Table, load_methods

REPO = shipped_root()
BEGIN, END = '<!-- tables: written by tools/misc/write_configs.py -->', '<!-- end of tables -->'
DATASET_NAMES = {
    'voc12': 'Pascal VOC 2012',
    'cityscapes': 'Cityscapes',
    'coco': 'COCO 2017, 81 classes',
    'ade20k': 'ADE20K',
    'lucchi': 'Lucchi',
    DIGIT_SCENES: 'Digit scenes',
}
MODEL_NAMES = {
    'deeplabv3plus_r50': ['DeepLabV3+', 'ResNet-50'],
    'deeplabv3plus_r101': ['DeepLabV3+', 'ResNet-101'],
    'deeplabv3plus_xception65': ['DeepLabV3+', 'Xception-65'],
    'segformer_mit-b2': ['SegFormer', 'MiT-B2'],
    'dinov2-s': ['DINOv2-S', 'DPT'],
    'dinov2-b': ['DINOv2-B', 'DPT'],
    'dinov2-l': ['DINOv2-L', 'DPT'],
    'clip-b16': ['CLIP ViT-B/16', 'language-guided decoder'],
    'unet': ['UNet'],
}
CHECKED = (
    'Blank: not trained by us, or no paper at hand has the figure. The figures of CorrMatch, '
    'RankMatch, S4MC and Weighting Pseudo-Labels, and what these quote of other methods, were '
    'compared with the four papers; the others are those that later papers commonly quote, so look '
    "before you cite one. Our figures are of the last checkpoint, the papers' of the best epoch on "
    'the validation set; the EMA teacher predicts with UniMatch V2, S4MC on CutMix-Seg, U2PL, AEL, '
    'AugSeg and Weighting on these, the student elsewhere. '
    '[docs/reproduce.md](../../docs/reproduce.md) says how to get from nothing to a row.'
)
SUPERVISED = 'supervised'
#: What is another in a network than in that of the shared base.
CHANGES = {
    'deeplabv3plus_r50': "dict(pretrained='open-mmlab://resnet50_v1c', backbone=dict(depth=50))",
    'dinov2-s': '_base_.dinov2_s',
    'dinov2-l': '_base_.dinov2_l',
}
#: UniMatch V2's program trains the labeled images alone with batches of all GPUs, for passes over
#: so many images.
DINOV2_SUPERVISED = dict(
    voc12=(60, 3000, 32), cityscapes=(180, 3000, 16), coco=(20, 30000, 32), ade20k=(60, 6000, 16)
)
WIDTH, DOC_WIDTH = 100, 120
_AS_MANY = '# As many iterations as the semi-supervised runs.'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='only compare')
    parser.add_argument('--configs', type=Path, default=REPO / 'configs', help='folder of configs')
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------ configs
def base_name(row: Row) -> str:
    """Name of the shared base of a row's config."""
    family = row.model.split('-')[0].split('_')[0]
    model = '' if family == 'deeplabv3plus' else f'_{family}'
    crop = f'_{row.crop}' if row.crop else ''
    return f'{row.prefix}{model}_{row.dataset}{crop}'


def supervised_iterations(row: Row) -> int:
    """Iterations of the semi-supervised runs, 8 images a batch; with DINOv2 the program's."""
    if row.model.startswith('dinov2'):
        epochs, images, batch = DINOV2_SUPERVISED[row.dataset]
        return epochs * (images // batch)
    epochs = dict(voc12=80, cityscapes=240, coco=30, lucchi=400)[row.dataset]
    return epochs * -(-row.unlabeled // 8)


def config_text(row: Row) -> str:
    """Content of a row's config file."""
    folder = f'{BENCHMARK_LAYOUTS[row.dataset].split_dir}/{row.split_folder}'
    lines = [f"_base_ = '../_base_/benchmarks/{base_name(row)}.py'"]
    if row.method == SUPERVISED:
        iters = supervised_iterations(row)
        lines += [
            f"labeled = dict(ann_file='{folder}/labeled.txt')",
            'train_dataloader = dict(dataset=dict(labeled=labeled))',
            *([] if row.model.startswith('dinov2') else [_AS_MANY]),
            "loop = dict(_delete_=True, type='SemiTrainLoop')",
            f'train_cfg = dict(loop, max_iters={iters}, val_interval={iters // 40})',
        ]
    else:
        lines += [f"split = '{folder}'", "labeled = dict(ann_file=f'{split}/labeled.txt')"]
        if row.method == 'weighting':
            lines += [
                f"boxes = f'{{_base_.data_root}}/detection/{row.split_folder}/unlabeled'",
                "detections = dict(results=f'{boxes}.bbox.json', images=f'{boxes}.json')",
                "unlabeled = dict(ann_file=f'{split}/unlabeled.txt', detections=detections)",
            ]
        else:
            lines += ["unlabeled = dict(ann_file=f'{split}/unlabeled.txt')"]
        lines += ['train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))']
    if row.model in CHANGES:
        place = '{}' if row.method == SUPERVISED else 'dict(segmentor={})'
        lines += [f'model = {place.format(CHANGES[row.model])}']
    return '\n'.join(lines) + '\n'


def detector_name(row: Row) -> str:
    """Config of the detector that makes the boxes of a split."""
    return f'detection/faster-rcnn_r50_fpn_{row.dataset}-{row.split.replace("_", "-")}.py'


def detector_text(row: Row) -> str:
    """Content of that config file."""
    return (
        f"_base_ = './faster-rcnn_r50_fpn_{row.dataset}.py'\n"
        f"folder = 'detection/{row.split_folder}/'\n"
        "train_dataloader = dict(dataset=dict(ann_file=f'{folder}labeled.json'))\n"
        "test_dataloader = dict(dataset=dict(ann_file=f'{folder}unlabeled.json'))\n"
        "boxes = f'{_base_.data_root}{folder}unlabeled'\n"
        "test_evaluator = dict(ann_file=f'{boxes}.json', outfile_prefix=boxes)\n"
    )


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """A config out of values by dotted keys."""
    config: dict[str, Any] = {}
    for key, value in keys.items():
        *path, last = key.split('.')
        node = config
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return config


def assignment(name: str, value: Any, indent: str = '', end: str = '') -> list[str]:
    """Lines of ``name = value``, of an argument where indented, 100 characters wide at most."""
    sign = '=' if indent else ' = '
    line = f'{indent}{name}{sign}{expression(value)}{end}'
    if len(line) <= WIDTH or not isinstance(value, Mapping):
        return [line]
    inner = [assignment(key, one, f'{indent}    ', ',') for key, one in value.items()]
    return [f'{indent}{name}{sign}dict(', *(line for lines in inner for line in lines)] + [
        f'{indent}){end}'
    ]


def expression(value: Any) -> str:
    """A value as Python has it."""
    if not isinstance(value, Mapping):
        return repr(value)
    return f'dict({", ".join(f"{key}={expression(one)}" for key, one in value.items())})'


def ablation_text(row: Row, method: Method) -> str:
    """Content of an ablation's config file, which begins with the rows that it is of."""
    said = [
        f'{table.paper_table or table.caption[0].upper() + table.caption[1:]}: {one.label}'
        for table in method.ablations
        for one in table.rows
        if one.stem == row.stem
    ]
    lines = textwrap.wrap(f'{"; ".join(said)}.', WIDTH, initial_indent='# ', subsequent_indent='# ')
    lines.append(f"_base_ = '../{replace(row, setting=None).stem}.py'")
    for name, value in nested(row.keys).items():
        lines += assignment(name, value)
    return '\n'.join(lines) + '\n'


def config_files(methods: Iterable[Method]) -> dict[str, str]:
    """Content of all config files by path; those of digit scenes are written by hand."""
    files = {}
    for method in methods:
        for row in method.rows:
            if row.dataset != DIGIT_SCENES:
                files[row.config] = config_text(row)
                if row.method == 'weighting':
                    files[detector_name(row)] = detector_text(row)
        for row in method.ablation_rows:
            files[row.config] = ablation_text(row, method)
    return files


# ------------------------------------------------------------------------------------------- README
def ours(row: Row) -> str:
    """Our result, or nothing."""
    if not row.seeds:
        return ''
    values = list(row.seeds.values())
    spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    seeds = f'{len(values)} seeds' if len(values) > 1 else f'seed {next(iter(row.seeds))}'
    return f'{statistics.mean(values):.2f}{spread} ({seeds}, {row.commit})'


def split_text(row: Row) -> str:
    """Name of a split, and the partition that it is of."""
    if row.dataset == 'lucchi':
        return f'{row.split}, drawn with seed 0'
    if row.dataset == DIGIT_SCENES:
        return row.split
    partition, _, _ = row.split.rpartition('_')
    if partition:
        return f'{partition.upper()} {row.labeled}'
    classic = 'classic ' if row.split in CLASSIC.get(row.dataset, ()) else ''
    return f'{classic}{row.labeled}'


def table_text(table: Table) -> str:
    """A table of README.md."""
    lines = [
        f'### {table.caption}{f" ({table.paper_table})" if table.paper_table else ""}',
        '',
        *([*paragraph(f'Figures: {table.source}.'), ''] if table.source else []),
        "| config | split | labeled + unlabeled | the paper's mIoU | our mIoU | log |",
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for row in table.rows:
        paper = '' if row.paper is None else str(float(row.paper))
        cells = (
            row.reason or f'[{row.stem}]({row.stem}.py)',
            split_text(row),
            f'{row.labeled} + {row.unlabeled}',
            paper,
            ours(row),
            '',
        )
        lines.append(markdown_row(cells))
    return '\n'.join(lines) + '\n'


def markdown_row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return '|' + '|'.join(f' {cell} ' if cell else ' ' for cell in cells) + '|'


def ablation_table_text(table: Table) -> str:
    """A table of an ablation: a column for each split, whose figures lead to the configs."""
    lines: dict[str, list[Row]] = {}
    for row in table.rows:
        lines.setdefault(row.label, []).append(row)
    splits = [split_text(row) for row in next(iter(lines.values()))]
    said = [*paragraph(f'{table.source[0].upper()}{table.source[1:]}.'), ''] if table.source else []
    place = f', {table.paper_table}' if table.paper_table else ''
    text = [f'### Ablation{place}: {table.caption}', '', *said]
    text += [markdown_row(['row', 'setting', *splits]), '| --- ' * (2 + len(splits)) + '|']
    for label, rows in lines.items():
        (*_, last) = rows
        name = f'`{last.setting}`' if last.setting else f'the config of `{last.prefix}`'
        figures = [figure(row, table.method) for row in rows]
        text.append(markdown_row([label, last.reason or name, *figures]))
    return '\n'.join(text) + '\n'


def paragraph(text: str) -> list[str]:
    """Lines of a paragraph of a page."""
    return textwrap.wrap(text, DOC_WIDTH, break_long_words=False, break_on_hyphens=False)


def figure(row: Row, folder: str) -> str:
    """The paper's figure, with a link to the config."""
    text = 'config' if row.paper is None else str(float(row.paper))
    if row.reason:
        return '' if row.paper is None else text
    return f'[{text}]({os.path.relpath(row.config, folder)})'


def readme_text(path: Path, method: Method) -> str:
    """README.md of a method with its tables made anew.

    Raises:
        SystemExit: The two marks are not there.
    """
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    if BEGIN not in text or END not in text:
        raise SystemExit(f'{path} needs a line "{BEGIN}" and, below it, a line "{END}"')
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    parts = ['\n'.join(paragraph(CHECKED)) + '\n', *map(table_text, method.tables)]
    parts += map(ablation_table_text, method.ablations)
    return f'{before}{BEGIN}\n' + '\n'.join(parts) + f'{END}{after}'


# ----------------------------------------------------------------------------------------- metafile
def metafile(method: Method) -> str:
    """metafile.yml of a method."""
    datasets = list(dict.fromkeys(DATASET_NAMES[row.dataset] for row in method.rows))
    collection: dict[str, Any] = {
        'Name': method.name,
        'Metadata': {'Training Data': datasets},
        'README': f'configs/{method.folder}/README.md',
        'Frameworks': ['PyTorch'],
    }
    if method.paper:
        collection['Paper'] = {'Title': method.paper['title'], 'URL': method.paper['url']}
    models = [model_entry(method, row) for row in method.rows]
    return yaml.safe_dump(
        {'Collections': [collection], 'Models': models}, sort_keys=False, allow_unicode=True
    )


def model_entry(method: Method, row: Row) -> dict[str, Any]:
    """Entry of a config in metafile.yml; Results are ours, Paper mIoU is the paper's."""
    entry: dict[str, Any] = {
        'Name': row.stem,
        'In Collection': method.name,
        'Config': f'configs/{row.config}',
        'Metadata': {
            'Architecture': list(MODEL_NAMES[row.model]),
            'Training Data': DATASET_NAMES[row.dataset],
            'Split': split_text(row),
            'Labeled Images': row.labeled,
            'Unlabeled Images': row.unlabeled,
        },
    }
    if row.paper is not None:
        entry['Metadata']['Paper mIoU'] = row.paper
    if row.seeds:
        entry['Results'] = [
            {
                'Task': 'Semi-Supervised Semantic Segmentation',
                'Dataset': DATASET_NAMES[row.dataset],
                'Metrics': {'mIoU': round(statistics.mean(row.seeds.values()), 2)},
            }
        ]
        entry['Metadata']['Seeds'] = dict(row.seeds)
        entry['Metadata']['Commit'] = row.commit
    return entry


def overview(methods: Iterable[Method]) -> str:
    """README.md of all configs: how many of each method and data set."""
    datasets = [name for name in DATASET_NAMES if name != DIGIT_SCENES]
    heads = [DATASET_NAMES[name] for name in datasets]
    lines = [
        '# Configs',
        '',
        "The configs of the papers' tables, each a few lines over a shared base of "
        '`_base_/benchmarks`. Written by',
        '`tools/misc/write_configs.py` out of `*/tables.yml`, and this page too; '
        '[docs/reproduce.md](../docs/reproduce.md) says how to run them.',
        '',
        '| method | ' + ' | '.join(heads) + ' | all |',
        '| --- |' + ' --- |' * (len(heads) + 1),
    ]
    counts = [
        (f'[{method.name}]({method.folder}/README.md)', _counts(method, datasets))
        for method in methods
    ]
    counts.append(('all', [sum(column) for column in zip(*(numbers for _, numbers in counts))]))
    for name, numbers in counts:
        cells = [str(number or '') for number in (*numbers, sum(numbers))]
        lines.append('|' + '|'.join(f' {cell} ' if cell else ' ' for cell in (name, *cells)) + '|')
    lines += [
        '',
        'Besides: configs for digit scenes (all methods, with ablations), '
        '[real images on a CPU](../docs/real_images.md)',
        '(`*_efficientnet-lite0_*.py`) and your own images (`*_custom.py`), '
        '[detectors](detection/README.md) and',
        '[a combination](mixed) of several methods. `_base_` holds data sets, networks, '
        'schedules and methods to build others from.',
    ]
    return '\n'.join(lines) + '\n'


def _counts(method: Method, datasets: Iterable[str]) -> list[int]:
    return [sum(row.dataset == name for row in method.rows) for name in datasets]


def all_files(configs: Path) -> dict[Path, str]:
    """Content of every file that is written, by path."""
    methods = load_methods(configs)
    files = {configs / name: text for name, text in config_files(methods.values()).items()}
    for method in methods.values():
        folder = configs / method.folder
        files[folder / 'README.md'] = readme_text(folder / 'README.md', method)
        files[folder / 'metafile.yml'] = metafile(method)
    files[configs / 'README.md'] = overview(methods.values())
    index = [f'configs/{folder}/metafile.yml' for folder in methods]
    files[configs.parent / 'model-index.yml'] = yaml.safe_dump({'Import': index})
    return files


def stale_files(configs: Path, files: Iterable[Path]) -> list[Path]:
    """Configs that nothing of the tables explains.

    They have a shared base of the benchmarks, or are ablations not of digit scenes.
    """
    wanted = set(files)
    benchmarks = [
        path
        for path in configs.glob('*/*.py')
        if "_base_ = '../_base_/benchmarks/" in path.read_text()
    ]
    ablations = [p for p in configs.glob('*/ablations/*.py') if DIGIT_SCENES not in p.name]
    return sorted({*benchmarks, *ablations} - wanted)


def main(argv: Sequence[str] | None = None) -> None:
    """Write or check."""
    args = parse_args(argv)
    files = all_files(args.configs)
    stale = stale_files(args.configs, files)
    differing = [
        path
        for path, text in files.items()
        if not path.is_file() or path.read_text(encoding='utf-8') != text
    ]
    if args.check:
        for path in differing:
            print(f'{path}: differs from what configs/*/tables.yml and ablations.yml say')
        for path in stale:
            print(f'{path}: is in no tables.yml')
        if differing or stale:
            raise SystemExit(
                'change configs/*/tables.yml, ablations.yml or configs/_base_ and run '
                'python tools/misc/write_configs.py; never edit these files themselves'
            )
    else:
        write_files({path: files[path] for path in differing})
        for path in stale:
            path.unlink()
    configs = sum(path.suffix == '.py' for path in files)
    done = 'agree' if args.check else f'written, {len(differing)} of them changed'
    print(f'{len(files)} files, {configs} of them configs: {done}')
