"""The command lines of ``train``, ``test`` and ``check``, for the scripts of ``tools/`` too."""

from __future__ import annotations

import argparse
import re

_CHECK = """Check a config and its data before a training.

Looks at all files of every part (labeled, unlabeled, validation and test), at what they hold and at
images that are alike, and makes a few training steps. A finding has the number of its kind, see
docs/checks.md: E for errors, which a training refuses, W for warnings, N for notes. check.json
has all findings with all their files, check.html shows them with images and the first batch.
The exit status is 1 with an error.
"""

_PLAN = """Say how much memory a training takes, and what fits on which GPU.

A step is run on the CPU with random images, at three small crops, and its tensors are counted; a
curve through them gives the peak of any crop and batch. No data are read. The context of the driver
and the work space of convolutions are not in it, for which --reserve is taken off a card.
"""

_PREDICT = """Predict images of any size, without masks.

OUT gets labels/ (PNG of class numbers with the palette of the classes; a GeoTIFF file for a GeoTIFF
image), classes.json and, where they are asked for, overlays/ with legend.png, probabilities/ (.npy,
float16 (classes, H, W)), coco.json or cvat/, and ranking.csv. Names and subfolders are those of the
images.
The same command goes on where it was stopped. An image that cannot be read is named and left out,
and the exit status is 1 then.
"""

_EXPORT = """Write a checkpoint's network as a file that runs without torch.

The graph takes the numbers of images as they are in their files (RGB, 0 to 255, for photographs),
float32 (B, C, H, W) of any size; normalization and padding are in it. It gives logits (B, K, H, W).
The file's metadata have the classes, the palette and the size that images are resized to before.
The command runs the file with onnxruntime on images of several sizes, and refuses to write it where
a logit differs by more than 0.0001.
"""


def train() -> argparse.ArgumentParser:
    """The options of a training."""
    parser = _parser('Train a config, with or without unlabeled images, or a detector of mmdet.')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue a run: from the newest complete checkpoint in the work folder, or from '
        'the one named here',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--seed', type=int, help='seed of the run (config key randomness.seed)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    _add_cfg_options(parser)
    _add_launcher(parser)
    return parser


def test() -> argparse.ArgumentParser:
    """The options of a test."""
    parser = _parser('Test a checkpoint.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for the log and the metrics')
    parser.add_argument(
        '--out',
        help='folder for the predicted label maps (PNG); for a detector the .json file for its '
        'boxes (otherwise test_evaluator.outfile_prefix with .bbox.json)',
    )
    parser.add_argument('--show-dir', help='folder for pictures of the predictions')
    parser.add_argument(
        '--images',
        metavar='DIR',
        help='predict the images of this folder and its subfolders, which need no masks, instead '
        'of the test images; with --out or --show-dir',
    )
    parser.add_argument(
        '--predict-with',
        choices=['student', 'teacher', 'both'],
        help='which network predicts (config key model.test_cfg.predict_with)',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    _add_cfg_options(parser)
    _add_launcher(parser)
    return parser


def check() -> argparse.ArgumentParser:
    """The options of a check."""
    parser = _parser(_CHECK)
    parser.add_argument('config', help='training config')
    parser.add_argument(
        '--out',
        help='folder of check.json and check.html (default: that of the run, '
        'work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--no-steps',
        action='store_true',
        help='make no training steps: no time, no memory, no pictures of a batch',
    )
    _add_cfg_options(parser)
    return parser


def plan() -> argparse.ArgumentParser:
    """The options of a plan of memory."""
    parser = _parser(_PLAN)
    parser.add_argument('configs', nargs='+', help='training configs, several for a table')
    parser.add_argument(
        '--gpu-memory',
        nargs='+',
        type=_gigabytes,
        default=[24.0, 40.0, 80.0],
        metavar='GB',
        help='memory of the cards, such as 24 or 24GB (default: 24 40 80)',
    )
    parser.add_argument(
        '--reserve',
        type=lambda text: 0.0 if text == '0' else _gigabytes(text),
        default=2.0,
        metavar='GB',
        help='memory of a card that tensors cannot have (default: 2)',
    )
    parser.add_argument('--amp', action='store_true', help='in mixed precision')
    parser.add_argument(
        '--device',
        default='cpu',
        choices=('cpu', 'cuda'),
        help='cuda: run a step of the config itself and say what torch counts',
    )
    parser.add_argument(
        '--crops',
        type=_side,
        nargs=2,
        metavar='SIDE',
        help='two of the small crops, the third is as far beyond (default: 192 256, and so 320, or '
        'what the patches of the encoder divide)',
    )
    parser.add_argument('--threads', type=_number, help='CPU threads')
    parser.add_argument('--out', metavar='FILE', help='file to write (default: only print)')
    _add_cfg_options(parser)
    return parser


def predict() -> argparse.ArgumentParser:
    """The options of a prediction."""
    parser = _parser(_PREDICT)
    parser.add_argument('checkpoint', help='checkpoint of a run, or of plain mmseg')
    parser.add_argument(
        'images',
        nargs='+',
        help="images, folders, patterns ('photos/**/*.jpg'), text files with an image a line, or - "
        'for such lines on standard input',
    )
    parser.add_argument('--out', required=True, help='folder of the predictions')
    parser.add_argument('--config', help='its config (default: the one beside the checkpoint)')
    parser.add_argument('--overlay', action='store_true', help='also lay the labels over images')
    parser.add_argument(
        '--probabilities', action='store_true', help='also write those of all classes'
    )
    parser.add_argument(
        '--polygons',
        choices=['coco', 'cvat'],
        help='also write coco.json, or the folder cvat ("Segmentation mask 1.1"), for a labeling '
        'tool and mmseg-semi import-labels',
    )
    parser.add_argument(
        '--rank-by',
        choices=['uncertainty'],
        help='also write ranking.csv: which images are worth a label next',
    )
    parser.add_argument(
        '--predict-with',
        choices=['student', 'teacher'],
        help='which network predicts (config key model.test_cfg.predict_with)',
    )
    parser.add_argument(
        '--tile',
        type=int,
        default=0,
        help='predict images with a longer side, after resizing, in tiles of this one (default: '
        '1024 for images of more than 4 million pixels)',
    )
    parser.add_argument(
        '--overlap', type=int, help='pixels that tiles share (default: a quarter of their side)'
    )
    parser.add_argument('--batch', type=int, default=1, help='images at once, of one size')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    _add_cfg_options(parser)
    return parser


def extract() -> argparse.ArgumentParser:
    """The options of an extraction."""
    parser = _parser(
        "Write a checkpoint's student or teacher as a plain mmseg model: OUT.pth, a checkpoint\n"
        'with tensors and plain values only, and OUT.py, a config that mmseg tests, serves and\n'
        'fine-tunes without mmseg_semi.'
    )
    parser.add_argument('checkpoint', help='checkpoint of a run')
    parser.add_argument('--out', required=True, help='the checkpoint to write, ending in .pth')
    parser.add_argument('--config', help='its config (default: the one beside the checkpoint)')
    parser.add_argument('--which', choices=['student', 'teacher'], default='student')
    _add_cfg_options(parser)
    return parser


def export() -> argparse.ArgumentParser:
    """The options of an export."""
    parser = _parser(_EXPORT)
    parser.add_argument('checkpoint', help='checkpoint of a run, or of plain mmseg')
    parser.add_argument('--onnx', action='store_true', required=True, help='the format')
    parser.add_argument('--out', required=True, help='the file to write, ending in .onnx')
    parser.add_argument('--config', help='its config (default: the one beside the checkpoint)')
    parser.add_argument(
        '--predict-with',
        choices=['student', 'teacher'],
        help='which network (config key model.test_cfg.predict_with)',
    )
    parser.add_argument(
        '--size',
        type=_number,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='for images of this size alone, where a network cannot be exported for any',
    )
    _add_cfg_options(parser)
    return parser


def compare() -> argparse.ArgumentParser:
    """The options of a comparison."""
    parser = _parser(
        'Compare finished trainings in a table: mean and deviation over the seeds, and the\n'
        'difference to one row with its standard error. Runs whose configs differ in the seed\n'
        'alone are one row. Runs of plain mmseg are read, too.'
    )
    _add_runs(parser)
    parser.add_argument('--out', metavar='FILE', help='file to write, .md or .csv')
    return parser


def report() -> argparse.ArgumentParser:
    """The options of a report."""
    parser = _parser(
        'Write one page about finished trainings, which opens from disk: the table of compare,\n'
        'curves, IoU of each class, confusions, calibration, best and worst validation images,\n'
        'findings of check, warnings, versions, seeds and configs. The validation images are\n'
        'predicted with the best checkpoint of each run, the last one where none is kept.'
    )
    _add_runs(parser)
    parser.add_argument('--out', metavar='FILE', default='report.html', help='default: report.html')
    parser.add_argument(
        '--no-predict', action='store_true', help='predict nothing: what the logs have alone'
    )
    return parser


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'runs', nargs='+', metavar='RUN', help='work folder of a training, or a folder of some'
    )
    parser.add_argument('--metric', default='mIoU', help='what is compared (default: mIoU)')
    parser.add_argument(
        '--of',
        choices=['test', 'last', 'best'],
        help='the newest test, the last or the best validation (default: the test where all runs '
        'have one, else the last validation)',
    )
    parser.add_argument(
        '--base', metavar='ROW', help='what the others are compared with (default: the supervised)'
    )


def _parser(description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _add_cfg_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        type=_key_and_value,
        metavar='KEY=VALUE',
        help='override config keys, for example train_cfg.max_iters=100',
    )


def _gigabytes(text: str) -> float:
    found = re.fullmatch(r'(\d+(?:\.\d+)?) *(?:GB|GiB|G)?', text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f'{text!r} is no memory: give gigabytes, such as 24GB')
    return float(found[1])


def _number(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is no number: give a whole one from 1 on')
    return int(text)


def _side(text: str) -> int:
    if not text.isdigit() or int(text) <= 64:
        raise argparse.ArgumentTypeError(f'{text!r} is no side of a crop: give pixels above 64')
    return int(text)


def _add_launcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def _key_and_value(text: str) -> str:
    if not re.fullmatch(r'[^=\s]+=.*', text, re.DOTALL):
        raise argparse.ArgumentTypeError(
            f'{text}: write KEY=VALUE, for example train_cfg.max_iters=100, without spaces around ='
        )
    return text
