"""Train two steps of every framework with every plug-in and list what came out.

Writes docs/compatibility.md. The data are a few digit scenes, made in a temporary folder. A
combination that is refused gives the reason; any other error stops the tool, as it is a bug.
"""

from __future__ import annotations

import argparse
import dis
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import cv2
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmseg_semi.detection.coco import (
    coco_annotations,
    coco_categories,
    coco_images,
    write_coco_files,
)
from mmseg_semi.files import shipped_root
from mmseg_semi.functional.components import masks_to_boxes
from mmseg_semi.prepare.digit_scenes import DIGIT_NAMES, SceneParams, make_digit_scenes
from mmseg_semi.utils.collect_env import distribution_version
from mmseg_semi.utils.config import load_config
from mmseg_semi.version import __version__

REPO = shipped_root()
OUT = REPO / 'docs' / 'compatibility.md'
COMMAND = 'python tools/analysis_tools/compatibility.py'
STEPS = 2

#: Frameworks by the name of their folder in configs/; the config is <name>_unet_digit-scenes-60.py.
FRAMEWORKS = {
    'fixmatch': 'FixMatch',
    'unimatch': 'UniMatch',
    'unimatch_v2': 'UniMatch V2',
    'mean_teacher': 'Mean Teacher',
    'cutmix_seg': 'CutMix-Seg',
    'augseg': 'AugSeg',
    'ael': 'AEL',
    'u2pl': 'U2PL',
    'corrmatch': 'CorrMatch',
    'rankmatch': 'RankMatch',
    's4mc': 'S4MC',
}

#: The lines that put a plug-in onto any framework, under a line `_base_ = '<its config>'`.
PLUGINS = {
    'S4MC': """\
model = dict(
    refiners=dict(
        context=dict(type='NeighborhoodRefiner', window=3),
        select=dict(_delete_=True, type='QuantileThreshold', score='margin', alpha=0.4),
    ),
)
""",
    'EMA threshold': """\
select = dict(_delete_=True, type='EMAThreshold', initial=0.85, momentum=0.999)
model = dict(refiners=dict(select=select))
""",
    'regions': """\
model = dict(
    refiners=dict(regions=dict(type='RegionPropagation', num_shapes=128, after_mixing=True)),
    heads=dict(
        correlation=dict(
            type='CorrelationHead',
            tap='backbone.decoder.1',
            in_channels=32,
            hidden_channels=64,
        ),
    ),
)
""",
    'own threshold': """\
model = dict(refiners=dict(regions=dict(threshold=0.85)))
""",
    'rank loss': """\
rank = dict(type='AgentRankHead', tap='backbone.decoder.1', num_agents=32, reduction='mean')
model = dict(heads=dict(rank=rank))
""",
    'guidance': """\
guidance = dict(type='PreviousGuidance', ramp_by='iteration')
model = dict(heads=dict(guidance=guidance))
""",
    'weighting': """\
model = dict(
    refiners=dict(
        agreement=dict(type='DetectionAgreement', min_confidence=0.95),
        weight=dict(type='RankStatisticsWeight', k=5),
    ),
)
detections = f'{_base_.data_root}detection/labeled_60/'
load = dict(
    type='LoadDetections',
    results=f'{detections}unlabeled.bbox.json',
    images=f'{detections}unlabeled.json',
    score_thr=0.9,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=load)))
""",
}

#: Columns of the table: plug-ins, each the child of the one before.
COLUMNS: dict[str, tuple[str, ...]] = {
    'none': (),
    'S4MC': ('S4MC',),
    'EMA threshold': ('EMA threshold',),
    'regions': ('regions',),
    'regions + own threshold': ('regions', 'own threshold'),
    'rank loss': ('rank loss',),
    'guidance': ('guidance',),
    'weighting': ('weighting',),
    'all, EMA threshold': ('EMA threshold', 'regions', 'rank loss', 'guidance', 'weighting'),
    'all, S4MC': ('S4MC', 'regions', 'own threshold', 'rank loss', 'guidance', 'weighting'),
}

DESCRIPTIONS = {
    'S4MC': 'Neighbors refine the probabilities, and a quantile of the margin takes the place of '
    "the framework's selection (called `select` in every framework).",
    'EMA threshold': "CorrMatch's threshold takes the place of the framework's selection.",
    'regions': "CorrMatch's correlation head and region propagation. `tap` and `in_channels` "
    'are those of the small UNet; a network with an encoder map of stride 8 needs neither.',
    'own threshold': 'For region propagation beside a selection that has no confidence threshold.',
    'rank loss': "RankMatch's loss on agents. `tap` is for the small UNet; the default is `aspp`.",
    'guidance': "PrevMatch's labels of the student's earlier weights.",
    'weighting': 'Weighting Pseudo-Labels: boxes of a detector say which pixels are reliable, and '
    'features weigh each pixel. The two files come from `masks_to_coco.py` and a detector first, '
    'see `configs/weighting/README.md`.',
}

#: Combinations besides the table that make no sense: what, framework, lines.
REFUSED = {
    'region propagation without a correlation head': (
        'fixmatch',
        "model = dict(refiners=dict(regions=dict(type='RegionPropagation')))",
    ),
    'contrast without an EMA teacher': (
        'fixmatch',
        "model = dict(heads=dict(contrast=dict(type='ContrastHead')))",
    ),
    'pseudo-labels of labeled images without a teacher': (
        'fixmatch',
        "labeled = dict(type='PseudoLabelCrossEntropy', stream='labeled')\n"
        'model = dict(losses=dict(labeled=labeled))',
    ),
    "AEL's loss in a framework without class confidences": (
        'mean_teacher',
        "model = dict(losses=dict(strong=dict(equalize='class_confidence')))",
    ),
    'a loss on perturbed features in a framework that perturbs none': (
        'fixmatch',
        "perturbed = dict(type='PseudoLabelCrossEntropy', stream='perturbed')\n"
        'model = dict(losses=dict(perturbed=perturbed))',
    ),
    'weak images kept from a student that is its own teacher': (
        'fixmatch',
        'model = dict(streams=dict(weak=None))',
    ),
    'a rank loss on features that the network does not have': (
        'unimatch',
        "model = dict(heads=dict(rank=dict(type='AgentRankHead', tap='aspp')))",
    ),
    'more compared channels than the features have': (
        'unimatch',
        "model = dict(refiners=dict(weight=dict(type='RankStatisticsWeight', k=17)))",
    ),
    'the hook of a threshold twice': (
        'corrmatch',
        "custom_hooks = [*_base_.custom_hooks, *[dict(type='EMAThresholdHook')] * 2]",
    ),
    'detections that are asked for and not loaded': (
        'unimatch',
        "model = dict(refiners=dict(agreement=dict(type='DetectionAgreement')))",
    ),
}

# What makes a config small: two steps of 2 + 2 images from the start, without validation. A
# classifier of large weights, so that the untrained network is sure of some pixels.
SMALL = f"""\
model = dict(
    warmup_iters=0,
    segmentor=dict(decode_head=dict(init_cfg=dict(std=4.0))),
)
part = dict(serialize_data=False)
train_dataloader = dict(batch_size=4, dataset=dict(labeled=part, unlabeled=part))
train_cfg = dict(max_iters={STEPS})
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
default_hooks = dict(runtime_info=None, checkpoint=dict(save_last=False))
visualizer = dict(vis_backends=[])
log_level = 'ERROR'
randomness = dict(seed=0)
"""

STAGES = ('when it is built', 'when training begins', 'in the first step')


class QuickRunner(Runner):
    """The runner without its reports of the config, which take longer than the two steps."""

    def dump_config(self) -> None:
        """Do nothing."""

    def _log_env(self, env_cfg: Any) -> None:
        pass


# ------------------------------------------------------------------------------------------- data
def make_data(folder: Path) -> None:
    """Make digit scenes, and COCO files of boxes around the digits of the unlabeled ones.

    Args:
        folder: Becomes the working folder of the configs, which read ``data/digit_scenes``.
    """
    root = folder / 'data' / 'digit_scenes'
    make_digit_scenes(root, SceneParams(labeled=60, subsets=(60,), unlabeled=8, val=1, test=1))
    numbers = {i: digit for i, digit in enumerate(DIGIT_NAMES[:5], 1)}
    boxes, sizes = [], {}
    for path in sorted((root / 'audit' / 'unlabeled').iterdir()):
        mask: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        boxes.append(masks_to_boxes(mask, list(numbers), min_area=20))
        sizes[path.name] = mask.shape[::-1]
    found = [
        dict(image_id=one['image_id'], category_id=one['category_id'], bbox=one['bbox'], score=0.95)
        for one in coco_annotations(boxes)
    ]
    files = root / 'detection' / 'labeled_60'
    images, categories = coco_images(sizes), coco_categories(numbers)
    listed = dict(info={}, images=images, annotations=[], categories=categories)
    write_coco_files({files / 'unlabeled.json': listed})
    (files / 'unlabeled.bbox.json').write_text(json.dumps(found))


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make ``folder`` the working folder for a while."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# --------------------------------------------------------------------------------------- one trial
@dataclass(frozen=True)
class Outcome:
    """What became of a combination.

    Attributes:
        parts: Class names of its refiners and heads; empty when it was not built.
        reason: Why it was refused; None when it trained.
        stage: When it was refused, one of ``STAGES``; None when it trained.
    """

    parts: tuple[str, ...] = ()
    reason: Optional[str] = None
    stage: Optional[str] = None


class _Progress(Hook):
    """Counts the steps that began and keeps what they returned."""

    def __init__(self) -> None:
        self.begun = 0
        self.logged: list[dict[str, float]] = []

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.begun += 1

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.logged.append({name: float(value) for name, value in outputs.items()})


def write_config(folder: Path, framework: str, texts: Sequence[str]) -> Path:
    """Write a chain of configs, each with its lines on the one before.

    Args:
        folder: Where.
        framework: One of ``FRAMEWORKS``.
        texts: The lines of each config.

    Returns:
        The last one.
    """
    path = REPO / 'configs' / framework / f'{framework}_unet_digit-scenes-60.py'
    for number, text in enumerate(texts):
        base, path = path, folder / f'config_{number}.py'
        path.write_text(f'_base_ = {str(base)!r}\n{text}')
    return path


def train(folder: Path, framework: str, texts: Sequence[str], *watching: Hook) -> Outcome:
    """Train two steps as tools/train.py does, with the runner and all hooks.

    Args:
        folder: Where the configs are written; the working folder holds the data.
        framework: One of ``FRAMEWORKS``.
        texts: Lines of plug-ins.
        *watching: Further hooks, which run after the others.

    Raises:
        Exception: Whatever went wrong and was not refused by the package.
    """
    progress, runner = _Progress(), None
    config = load_config(str(write_config(folder, framework, [*texts, SMALL])))
    config.work_dir = str(folder / 'work')
    try:
        runner = QuickRunner.from_cfg(config)
        for hook in (progress, *watching):
            runner.register_hook(hook, priority='LOWEST')
        runner.train()
    except (ValueError, RuntimeError) as error:
        if not _is_refusal(error):
            raise
        stage = STAGES[(runner is not None) + (progress.begun > 0)]
        return Outcome((), _message(error), stage)
    if len(progress.logged) != STEPS:
        raise AssertionError(f'{len(progress.logged)} of {STEPS} steps were trained')
    model = runner.model
    names = [type(part).__name__ for part in (*model.refiners.values(), *model.heads.values())]
    return Outcome(tuple(names))


def _is_refusal(error: BaseException) -> bool:
    """Whether a `raise` of the package made it, and not what it called."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    trace: Any = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    inside = Path(__file__).resolve().parents[1] in Path(code.co_filename).resolve().parents
    return inside and code.co_code[trace.tb_lasti] == dis.opmap['RAISE_VARARGS']


def _message(error: BaseException) -> str:
    """The message without what mmengine's registry puts before it."""
    return re.sub(r'^(class `\w+` in \S+\.py: )+', '', str(error))


def try_cell(folder: Path, framework: str, column: str, *watching: Hook) -> Outcome:
    """Try a cell of the table."""
    return train(folder, framework, [PLUGINS[name] for name in COLUMNS[column]], *watching)


def try_refused(folder: Path, what: str) -> Outcome:
    """Try one of ``REFUSED``."""
    framework, text = REFUSED[what]
    return train(folder, framework, [text + '\n'])


# --------------------------------------------------------------------------------------- the page
def versions() -> str:
    """Name what was tried, in one line."""
    packages = ('torch', 'mmengine', 'mmcv', 'mmsegmentation')
    found = ', '.join(f'{name} {distribution_version(name)}' for name in packages)
    return f'Tried with mmseg_semi {__version__}, {found}.'


def document(
    table: Mapping[tuple[str, str], Outcome], refused: Mapping[str, Outcome], tried_with: str
) -> str:
    """Write the page.

    Args:
        table: Outcomes by framework and column.
        refused: Outcomes of ``REFUSED``.
        tried_with: The line of ``versions``.

    Raises:
        ValueError: One of ``REFUSED`` was not refused.
    """
    known: dict[Outcome, list[str]] = {}  # what was refused in the table for the same reason
    rows = []
    for framework, title in FRAMEWORKS.items():
        cells = []
        for column in COLUMNS:
            outcome = table[framework, column]
            if outcome.reason is None:
                own = set(outcome.parts) <= set(table[framework, 'none'].parts)
                cells.append('trains, part of it' if own and column != 'none' else 'trains')
            else:
                known.setdefault(outcome, []).append(f'{title} with {column}')
                cells.append(f'refused ({list(known).index(outcome) + 1})')
        rows.append(f'| {title} | {" | ".join(cells)} |')
    cases = [(', '.join(where), outcome, '') for outcome, where in known.items()]
    for what, outcome in refused.items():
        if outcome.reason is None:
            raise ValueError(f'{what}: it makes no sense, and it was not refused but trained')
        framework, text = REFUSED[what]
        cases.append((what, outcome, f'# on {FRAMEWORKS[framework]}\n{text}'))
    reasons = [_reason(number, *case) for number, case in enumerate(cases, 1)]
    plugins = [
        f'**{name}.** {DESCRIPTIONS[name]}\n\n```python\n{text}```\n'
        for name, text in PLUGINS.items()
    ]
    return PAGE.format(
        tried_with=tried_with,
        steps=STEPS,
        header=f'| framework | {" | ".join(COLUMNS)} |\n|{" --- |" * (len(COLUMNS) + 1)}',
        rows='\n'.join(rows),
        reasons='\n'.join(reasons),
        plugins='\n'.join(plugins),
        command=COMMAND,
    )


def _reason(number: int, what: str, outcome: Outcome, lines: str) -> str:
    code = f'\n```python\n{lines}\n```\n' if lines else ''
    title = f'**({number})** {what[0].upper()}{what[1:]}: refused {outcome.stage}.'
    return f'{title}\n{code}\n> {outcome.reason}\n'


PAGE = """\
# What goes with what

Every framework with every plug-in was trained for {steps} steps on digit scenes, by the real runner
with its hooks: `configs/<framework>/<framework>_unet_digit-scenes-60.py` with the lines of the
plug-ins below, 2 labeled and 2 unlabeled images a step, no warm-up, boxes made from the true masks.
"trains" says nothing about accuracy: all losses are finite, and `tests/test_compatibility.py` looks
whether every part has an effect, its state moves and its parameters get a gradient.

{tried_with}

{header}
{rows}

"part of it": the plug-in is a part of the framework anyway. "refused (n)": for reason n below.
"all" is every plug-in at once, once with the EMA threshold as selection and once with S4MC's
refinement and quantile, where region propagation has its own threshold.

## The lines of each plug-in

They go into a config under a line `_base_ = '<config of the framework>'`. For several plug-ins,
make each config the `_base_` of the next one. Hooks are a list, so the lines that add one take it
out first, in case the framework has it; twice it is refused.

{plugins}
## Refused

The reasons are the messages of the errors. What can be seen in the model's config is refused when
it is built; what is wrong with the hooks or the data, when training begins or in the first step,
before any weight is changed.

{reasons}
## Writing this page again

```bash
{command}
```

`tests/test_compatibility.py` tries everything again and compares this page, but for the versions.
"""


def write_page(out: Path, text: str) -> None:
    """Replace the page as a whole."""
    part = out.with_name(f'{out.name}.part')
    part.write_text(text)
    os.replace(part, out)


def main(argv: Sequence[str] | None = None) -> None:
    """Try everything, then write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=OUT, help='Markdown file to write')
    out = parser.parse_args(argv).out.resolve()
    if not out.parent.is_dir():
        parser.error(f'--out {out}: there is no folder {out.parent}')
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    table, refused = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        with working_in(folder):
            for cell in [(one, column) for one in FRAMEWORKS for column in COLUMNS]:
                table[cell] = try_cell(folder, *cell)
                print(f'{" + ".join(cell)}: {table[cell].reason or "trains"}', flush=True)
            for what in REFUSED:
                refused[what] = try_refused(folder, what)
                print(f'{what}: {refused[what].reason}', flush=True)
    write_page(out, document(table, refused, versions()))
    print(out)
