"""Warnings about a training that goes wrong without an error."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Optional

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.structures import SemiStep

from .pseudo_label_observer import PseudoLabelObserver

#: File of a run's warnings, one JSON object a line: ``iter``, ``kind`` and ``text``.
WARNINGS_FILE = 'warnings.jsonl'
_NONE, _ALL = 0.01, 0.99
#: A class is gone below this part of its share of the labeled pixels, if that is not tiny itself.
_GONE, _TINY = 0.01, 0.001
#: The classes but one are gone below this part of their share.
_COLLAPSED = 0.1
_WORSE = 1.0
_START = 'best_of_start'  # in the message hub
_THRESHOLD = (
    "a threshold for each class (model.refiners.select=dict(_delete_=True, type='EMAThreshold', "
    "update='per_class', warm_up=True))"
)
_LONGER = (
    'a longer start on labels alone (model.warmup_iters), an EMA teacher '
    "(model.teacher=dict(type='EMATeacher', from_start=True))"
)


class Concern(NamedTuple):
    """Why a training is worth less than it looks."""

    kind: str
    text: str
    about: str = ''


@HOOKS.register_module()
class TrainingMonitorHook(PseudoLabelObserver):
    """Warn of what makes a training worthless, and say what to try.

    Looks at one step in ``interval`` and judges the last ``patience`` looks together. Each kind of
    warning is given once (of classes that are gone, once a class): in the log, in the file
    ``warnings.jsonl`` of the run's log folder, and counted as ``warnings`` in TensorBoard.

    - ``none``, ``all``: under 1 % or over 99 % of the unlabeled pixels are trained with.
    - ``collapse``: one class has so much of the selected pseudo-labels that the others together
      have less than a tenth of their share of the labeled pixels.
    - ``gone``: a class has 0.1 % or more of the labeled pixels and less than a hundredth of that
      share among the selected pseudo-labels.
    - ``validation``: mIoU is more than a point below the best one of the start on labels alone.
    - ``rate``: the learning rate is 0 before the end. ``loss``: the loss is the same each time.

    ``pseudo/classes`` in the log is how many classes the selected pseudo-labels have in effect, the
    exponential of the entropy of their shares. Supervised training has the last two kinds.

    Args:
        interval: Iterations from one look to the next.
        patience: Looks that are judged together.
    """

    priority = 'NORMAL'  # before the logger

    @checked
    def __init__(
        self, interval: Annotated[int, Whole(1)] = 25, patience: Annotated[int, Whole(1)] = 10
    ) -> None:
        super().__init__(interval)
        self.patience = patience
        self.given: set[tuple[str, str]] = set()
        self._looks: deque[Tensor] = deque(maxlen=patience)
        self._losses: deque[float] = deque(maxlen=patience)
        self._labeled: Optional[Tensor] = None
        self._counts: Optional[Tensor] = None
        self._start: Optional[float] = None

    def before_train(self, runner: Any) -> None:
        """Start to observe; a plain segmentor has no pseudo-labels."""
        if runner.iter > 0:  # it is resumed
            self._start = runner.message_hub.runtime_info.get(_START)
        if hasattr(_model(runner), 'add_observer'):
            super().before_train(runner)

    def _observe(self, step: SemiStep) -> None:
        self._counts = _count(step)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Judge what has been seen."""
        if not self._due:
            return
        if outputs and 'loss' in outputs:
            self._losses.append(torch.as_tensor(outputs['loss']).item())
        self._say(runner, self._judge_optimizer(runner))
        if self._counts is None:  # in the start
            return
        counts, self._counts = self._counts, None
        all_reduce(counts, op='sum')
        counts = counts.cpu()
        self._labeled = counts[1] if self._labeled is None else self._labeled + counts[1]
        self._looks.append(counts[0])
        seen = torch.stack(list(self._looks)).sum(dim=0)
        runner.message_hub.update_scalar('train/pseudo/classes', _effective(seen[1:]))
        if len(self._looks) == self.patience:
            refiners = getattr(_model(runner), 'refiners', {}).values()
            selects = any(one.stage == 'selection' for one in refiners)
            names = runner.train_dataloader.dataset.metainfo.get('classes')
            self._say(runner, _judge(seen, self._labeled, selects, names))

    def after_val_epoch(self, runner: Any, metrics: Optional[Mapping[str, Any]] = None) -> None:
        """Compare with the start."""
        score, length = (metrics or {}).get('mIoU'), getattr(_model(runner), 'warmup_length', 0)
        if score is None or not length:
            return
        if runner.iter <= length:
            self._start = score if self._start is None else max(self._start, score)
            runner.message_hub.update_info(_START, self._start)  # which checkpoints keep
        elif self._start is not None and score < self._start - _WORSE:
            text = (
                f'mIoU on the validation images is {score:.2f}, and was {self._start:.2f} at '
                'best in the start on labels alone: the unlabeled images do harm. Try a smaller '
                f'model.losses.*.loss_weight, {_THRESHOLD}, or Weighting; with '
                "default_hooks.checkpoint.save_best='mIoU' the best checkpoint is kept"
            )
            self._say(runner, [Concern('validation', text)])

    def _judge_optimizer(self, runner: Any) -> Iterator[Concern]:
        rates = [rate for each in runner.optim_wrapper.get_lr().values() for rate in each]
        if max(rates, default=1.0) == 0 and runner.iter < 0.99 * runner.max_iters - 1:
            text = (
                'the learning rate is 0, and nothing is learned any more: correct begin and end '
                'of param_scheduler, or optim_wrapper.optimizer.lr'
            )
            yield Concern('rate', text)
        if len(self._losses) == self.patience > 1:
            low, high = min(self._losses), max(self._losses)
            if high - low <= 1e-5 * abs(high):
                text = (
                    f'the loss has been {high:.6g} in {self.patience} looks one after another: '
                    'the network does not answer to its images. Try another '
                    'optim_wrapper.optimizer.lr, and look at the masks with mmseg-semi check'
                )
                yield Concern('loss', text)

    def _say(self, runner: Any, found: Iterable[Concern]) -> None:
        for kind, text, about in found:
            if (kind, about) in self.given:
                continue
            self.given.add((kind, about))
            runner.message_hub.update_scalar('train/warnings', len(self.given))
            if not is_main_process():
                continue
            print_log(f'{text}.', logger='current', level=logging.WARNING)
            entry = dict(iter=runner.iter + 1, kind=kind, text=text)
            path = Path(runner.log_dir, WARNINGS_FILE)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open('a', encoding='utf-8') as file:
                file.write(json.dumps(entry) + '\n')


def _model(runner: Any) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _count(step: SemiStep) -> Tensor:
    """Count pixels, float64 (2, 1 + K).

    In the first row the valid unlabeled ones, and the selected of them by class; in the second 0
    and the labeled ones by class.
    """
    pseudo, number = step.final, step.raw_pseudo.logits.shape[1]
    selected = pseudo.label[pseudo.used]
    counts = torch.zeros(2, 1 + number, dtype=torch.float64, device=pseudo.label.device)
    counts[0, 0] = pseudo.valid.sum()
    counts[0, 1:] = _histogram(selected, number)
    for sample in step.labeled_samples:
        counts[1, 1:] += _histogram(sample.gt_sem_seg.data.flatten(), number)
    return counts


def _histogram(labels: Tensor, number: int) -> Tensor:
    return torch.bincount(labels[(labels >= 0) & (labels < number)].flatten(), minlength=number)


def _effective(counts: Tensor) -> float:
    """Exponential of the entropy of the shares; 0 where nothing is counted."""
    total = counts.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(counts / total).sum().exp())


def _judge(seen: Tensor, labeled: Tensor, selects: bool, names: Any) -> Iterator[Concern]:
    """Say what the counts of the last looks show.

    Args:
        seen: Valid pixels, and selected ones by class (1 + K,).
        labeled: 0, and labeled pixels by class (1 + K,).
        selects: Whether a refiner does.
        names: Of the classes; None for their numbers.
    """
    selected, known = seen[1:], labeled[1:]
    share = float(selected.sum() / seen[0].clamp(min=1))
    if selects and share < _NONE:
        text = (
            f'{share:.2%} of the unlabeled pixels are trained with: select more '
            f'(model.refiners.select), or try {_THRESHOLD}, {_LONGER}'
        )
        yield Concern('none', text)
    if selects and share > _ALL:
        text = (
            f'{share:.2%} of the unlabeled pixels are trained with, and wrong labels are not left '
            'out: select fewer (model.refiners.select), or try a smaller '
            'model.losses.*.loss_weight'
        )
        yield Concern('all', text)
    if selected.sum() and known.sum():
        named = [str(one) for one in (names or range(len(selected)))]
        yield from _judge_classes(selected / selected.sum(), known / known.sum(), named)


def _judge_classes(selected: Tensor, known: Tensor, names: list[str]) -> Iterator[Concern]:
    """Compare the shares of the classes (K,) in selected pseudo-labels and in labeled pixels."""
    first = int(selected.argmax())
    if 1 - selected[first] < _COLLAPSED * (1 - known[first]):
        text = (
            f"{selected[first]:.1%} of the pseudo-labels that are trained with are '{names[first]}'"
            f' ({known[first]:.1%} of the labeled pixels), and the other classes are being '
            f'forgotten: try {_LONGER}, {_THRESHOLD}, or a smaller model.losses.*.loss_weight'
        )
        yield Concern('collapse', text)
        return
    for one in torch.nonzero((known >= _TINY) & (selected < _GONE * known)).flatten().tolist():
        text = (
            f"class '{names[one]}' has {known[one]:.2%} of the labeled pixels and "
            f'{selected[one]:.3%} of the pseudo-labels that are trained with: try '
            f'{_THRESHOLD}, {_LONGER}, or label more images that show it'
        )
        yield Concern('gone', text, names[one])
