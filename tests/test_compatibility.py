"""Every framework with every plug-in: two steps are trained, and every part is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_files import unpack
from mmengine.hooks import Hook
from torch import nn

from mmseg_semi.functional import mix
from mmseg_semi.zoo import compatibility as tool

# What the OpenMMLab stack says of its own calls, a hundred times.
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')

TRIED_WITH = re.compile(r'^Tried with .*\.$', re.M)


CELLS = [(framework, column) for framework in tool.FRAMEWORKS for column in tool.COLUMNS]

# ---------------------------------------------------------------------- what is expected
NO_THRESHOLD = 'RegionPropagation has no threshold'
REFUSED_CELLS = {
    ('u2pl', 'regions'): NO_THRESHOLD,
    ('s4mc', 'regions'): NO_THRESHOLD,
    ('corrmatch', 'S4MC'): NO_THRESHOLD,
}
BUILT, BEGUN, FIRST = 'when it is built', 'when training begins', 'in the first step'
REFUSED = {
    'region propagation without a correlation head': (BUILT, "has none named 'correlation'"),
    'contrast without an EMA teacher': (BUILT, "set model.teacher=dict(type='EMATeacher')"),
    'pseudo-labels of labeled images without a teacher': (BUILT, 'set model.teacher=dict(type='),
    "AEL's loss in a framework without class confidences": (BUILT, 'reads a ClassConfidence'),
    'a loss on perturbed features in a framework that perturbs none': (
        BUILT,
        "stream is 'perturbed', which model.streams does not have",
    ),
    'weak images kept from a student that is its own teacher': (BUILT, 'remove the key'),
    'a rank loss on features that the network does not have': (BUILT, 'has no ASPP module'),
    'more compared channels than the features have': (BUILT, 'k=17 is more than the 16'),
    'the hook of a threshold twice': (BEGUN, 'more than once'),
    'detections that are asked for and not loaded': (FIRST, "have no map 'detections'"),
}
# Class names by config key that a plug-in must leave in the model.
PARTS = {
    'S4MC': dict(context='NeighborhoodRefiner', select='QuantileThreshold'),
    'EMA threshold': dict(select='EMAThreshold'),
    'regions': dict(regions='RegionPropagation', correlation='CorrelationHead'),
    'own threshold': dict(regions='RegionPropagation'),
    'rank loss': dict(rank='AgentRankHead'),
    'guidance': dict(guidance='PreviousGuidance'),
    'weighting': dict(agreement='DetectionAgreement', weight='RankStatisticsWeight'),
}
WITH_TEACHER = {'unimatch_v2', 'mean_teacher', 'cutmix_seg', 'augseg', 'ael', 'u2pl', 's4mc'}


# ---------------------------------------------------------------------------- looking at a run
def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the buffers of all parts and of the teachers."""
    network = None if model.teacher is None else model.teacher.network
    teachers = {'teacher': network, 'heads.contrast': model.heads}
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for key, module in teachers.items():
        for name, value in module.named_parameters() if module is not None else ():
            if not value.requires_grad:
                state[f'{key}.{name}'] = value.detach().clone()
    return state


class Watch(Hook):
    """Keeps the steps of a run, what they logged, the gradients and the state."""

    def __init__(self) -> None:
        self.steps, self.logged, self.states = [], [], []
        self.gradients: dict[str, float] = {}
        self.tried: list[tuple[str, Any]] = []

    def before_train(self, runner: Any) -> None:
        self.model = runner.model
        self.model.add_observer(self.see)
        self.states.append(state_of(self.model))
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                self.gradients[name] = -1.0
                parameter.register_hook(lambda grad, name=name: self.see_gradient(name, grad))

    def see(self, step: Any) -> None:
        """Keep the step, and try what an untrained network may not call for in two steps."""
        self.steps.append(step)
        refiners = dict(self.model.refiners)
        if 'regions' in refiners:
            part = refiners['regions']
            kept, part.threshold = part.threshold, 0.1
            self.tried.append(('regions', part(self.before('regions', step), step.teacher, step)))
            part.threshold = kept
        if hasattr(self.model.mixer, 'bank'):  # images that it loads are refined like the batch
            pseudo = step.raw_pseudo
            for part in refiners.values():
                if not part.after_mixing:
                    pseudo = part(pseudo, step.teacher, step)
            self.tried.append(('more', pseudo))

    def see_gradient(self, name: str, grad: torch.Tensor) -> None:
        assert torch.isfinite(grad).all(), name
        self.gradients[name] = max(self.gradients[name], float(grad.abs().max()))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.logged.append({name: float(value) for name, value in outputs.items()})
        self.states.append(state_of(self.model))

    def before(self, refiner: str, step: Any) -> Any:
        """The pseudo-label that a refiner got."""
        refiners = self.model.refiners.items()
        names = [name for name, one in refiners if name == refiner or not one.after_mixing]
        place = names.index(refiner)
        return step.refined[names[place - 1]] if place else step.raw_pseudo

    def moved(self, name: str) -> list[bool]:
        """Whether a state changed, in each step."""
        states = [one[name] for one in self.states]
        return [not torch.equal(a, b) for a, b in zip(states, states[1:])]


# -------------------------------------------------------------- what each part must have done
def check_ConfidenceThreshold(watch: Watch, name: str, part: Any) -> None:
    for step in watch.steps:
        got, after = watch.before(name, step), step.refined[name]
        assert torch.equal(after.selected, got.selected & (got.confidence >= part.threshold))
    assert any(step.refined[name].selected.any() for step in watch.steps)


def check_EMAThreshold(watch: Watch, name: str, part: Any) -> None:
    """tau <- m tau + (1 - m) mean over the predicted classes of their highest confidence."""
    value, momentum = 0.85, 0.999
    for step, state in zip(watch.steps, watch.states[1:]):
        got, after = watch.before(name, step), step.refined[name]
        assert torch.equal(after.selected, got.selected & (got.confidence >= value))
        raw, valid = step.raw_pseudo, step.raw_pseudo.valid
        peaks = [
            float(raw.confidence[valid & (raw.label == number)].max())
            for number in raw.label[valid].unique().tolist()
        ]
        value = momentum * value + (1 - momentum) * sum(peaks) / len(peaks)
        assert float(state[f'refiners.{name}.value']) == pytest.approx(value, abs=1e-9)


def scores(prob: torch.Tensor, kind: str) -> np.ndarray:
    prob = np.sort(prob.numpy(), axis=1)
    if kind == 'margin':
        return prob[:, -1] - prob[:, -2]
    return (prob * np.log(np.clip(prob, 1e-12, None))).sum(1)


def check_QuantileThreshold(watch: Watch, name: str, part: Any) -> None:
    for number, step in enumerate(watch.steps):
        valid = step.raw_pseudo.valid.numpy()
        threshold = watch.logged[number][f'{name}.threshold']
        raw = scores(step.raw_pseudo.prob, part.score)[valid]
        share = part.alpha * (1 - number / 2 if part.decay_by == 'iteration' else 1)
        assert (raw < threshold).mean() - 1e-3 <= share <= (raw <= threshold).mean() + 1e-3
        got, after = watch.before(name, step), step.refined[name]
        wanted = got.selected.numpy() & (scores(got.prob, part.score) > threshold)
        assert (after.selected.numpy() == wanted).mean() > 0.999  # rounding next to the threshold


def check_NeighborhoodRefiner(watch: Watch, name: str, part: Any) -> None:
    for step in watch.steps:
        got, after = watch.before(name, step), step.refined[name]
        gain = (after.prob - got.prob).transpose(0, 1)[:, got.valid]
        assert gain.min() >= -1e-6 and gain.max() > 0.01, 'neighbors support a class'


def check_RegionPropagation(watch: Watch, name: str, part: Any) -> None:
    """Shapes of an untrained network seldom reach the threshold; with a lower one they do."""
    wide = [pseudo for kind, pseudo in watch.tried if kind == name]
    assert len(wide) == 2
    for step, lower in zip(watch.steps, wide):
        got, after = watch.before(name, step), step.refined[name]
        mix = step.streams['strong'][0].mix if part.after_mixing else None
        plain = got if mix is None else got.update(prob=None, logits=None).map(mix)
        own = torch.ones_like(plain.valid) if mix is None or mix.foreign is None else ~mix.foreign
        before = after.extras['selected_before_propagation']
        assert own.any() and torch.equal(before[own], plain.selected[own])
        assert not (before & ~after.selected).any()
        assert not (got.selected & ~lower.selected).any()
        assert (lower.label != got.label).any() and (lower.selected != got.selected).any()


def check_loaded(watch: Watch) -> None:
    loaded = [pseudo for kind, pseudo in watch.tried if kind == 'more']
    assert len(loaded) == 2
    for step, pseudo in zip(watch.steps, loaded):
        assert pseudo.extras.keys() == step.pseudo.extras.keys()
        if 'regions' in watch.model.refiners:  # which draws other shapes
            continue
        for field in ('label', 'confidence', 'selected', 'weight', 'reliable'):
            one, other = getattr(pseudo, field), getattr(step.pseudo, field)
            assert one is other is None or torch.equal(one, other), field


def check_DetectionAgreement(watch: Watch, name: str, part: Any) -> None:
    found = 0
    for step in watch.steps:
        got, after = watch.before(name, step), step.refined[name]
        boxes = unpack(step.maps['detections'].numpy(), got.prob.shape[1])
        assert boxes.any() and not boxes.all(1).any()
        covered = np.take_along_axis(boxes, got.label.numpy()[:, None], 1)[:, 0]
        wanted = covered & got.valid.numpy() & (got.confidence.numpy() > 0.95)
        assert np.array_equal(after.reliable.numpy(), wanted)
        found += int(wanted.sum())
    assert found


def check_RankStatisticsWeight(watch: Watch, name: str, part: Any) -> None:
    first, second = (step.refined[name].weight for step in watch.steps)
    assert (first == 1).all(), 'there are no prototypes yet'
    assert {round(one * 5, 4) for one in second.unique().tolist()} <= {0, 1, 2, 3, 4, 5}
    assert 0 < second.mean() < 1
    for step in watch.steps:
        assert all(view.pseudo.weight is not None for view in step.streams['strong'])
    assert all(watch.moved(f'refiners.{name}.bank.counts'))
    assert watch.states[-1][f'refiners.{name}.bank.counts'].any()


def check_AgentRankHead(watch: Watch, name: str, part: Any) -> None:
    assert all(logged[f'{name}.loss'] > 0 for logged in watch.logged)


def check_PreviousGuidance(watch: Watch, name: str, part: Any) -> None:
    first, second = watch.logged
    assert f'{name}.loss' not in first, 'there are no earlier weights yet'
    assert second[f'{name}.loss'] > 0 and second[f'{name}.weight'] == 1
    assert len(part.snapshots) == 2


def check_CorrelationHead(watch: Watch, name: str, part: Any) -> None:
    for logged in watch.logged:
        assert logged[f'{name}.loss'] > 0 and logged[f'{name}.labeled.loss_ce'] > 0


def check_ContrastHead(watch: Watch, name: str, part: Any) -> None:
    assert watch.logged[0][f'{name}.loss'] == 0, 'the queues are empty'
    assert watch.logged[1][f'{name}.loss'] > 0
    assert all(watch.moved(f'heads.{name}.bank.counts'))
    assert any(watch.moved(f'heads.contrast.{name}.teacher_project.2.weight'))


def check_ClassConfidence(watch: Watch, name: str, part: Any) -> None:
    assert all(watch.moved(f'heads.{name}.values'))


def check_streams(watch: Watch) -> None:
    """Mixing, pseudo-label losses, gradients and the teacher."""
    model = watch.model
    for loss in model.losses:
        assert any(logged[f'{loss}.loss'] > 0 for logged in watch.logged), loss
    for step in watch.steps:
        views = step.streams['strong']
        assert views and all((view.mix is None) == (model.mixer is None) for view in views)
    without = [name for name, grad in watch.gradients.items() if grad < 0]
    assert without == [], 'no gradient at all'
    weights = {n for n, p in model.named_parameters() if p.requires_grad and p.dim() > 1}
    assert [name for name in weights if watch.gradients[name] == 0] == []
    if model.teacher is not None:
        names = [name for name in watch.states[0] if name.startswith('teacher.')]
        assert names and all(any(watch.moved(name)) for name in names)
    if type(model.mixer).__name__ == 'ClassAwareCutMix':
        assert len(model.mixer.bank) == 8 and all(watch.moved('mixer.bank'))
        check_loaded(watch)


# ------------------------------------------------------------------------------------ the tests
@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp('compatibility')
    tool.make_data(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tool.working_in(folder):
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def outcomes() -> dict[Any, Any]:
    """What was tried so far, so that the test of the page tries the rest only."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize('framework, column', CELLS)
def test_cell(folder, outcomes, framework, column):
    watch = Watch()
    outcome = outcomes[framework, column] = tool.try_cell(folder, framework, column, watch)
    if (framework, column) in REFUSED_CELLS:
        assert outcome.stage == BUILT
        assert REFUSED_CELLS[framework, column] in outcome.reason
        return
    assert outcome.reason is None
    assert len(watch.steps) == len(watch.logged) == 2
    assert all(np.isfinite(list(logged.values())).all() for logged in watch.logged)
    model = watch.model
    parts = {**model.refiners, **model.heads}
    for plugin in tool.COLUMNS[column]:
        for name, kind in PARTS[plugin].items():
            assert type(parts[name]).__name__ == kind
    if 'own threshold' in tool.COLUMNS[column]:
        assert parts['regions'].threshold == 0.85
    assert (model.teacher is not None) == (framework in WITH_TEACHER)
    for name, part in parts.items():
        globals()[f'check_{type(part).__name__}'](watch, name, part)
    check_streams(watch)


@pytest.mark.parametrize('what', list(tool.REFUSED))
def test_refused(folder, outcomes, what):
    outcome = outcomes[what] = tool.try_refused(folder, what)
    stage, words = REFUSED[what]
    assert outcome.reason is not None and words in outcome.reason
    assert outcome.stage == stage
    assert str(folder) not in outcome.reason and 'class `' not in outcome.reason


def test_only_what_the_package_raises_is_a_refusal(folder):
    """Errors of torch are bugs, wherever they come up."""
    text = 'model = dict(segmentor=dict(decode_head=dict(in_channels=8)))\n'
    with pytest.raises(RuntimeError, match='to have 8 channels'):
        tool.train(folder, 'fixmatch', [text])
    with pytest.raises(RuntimeError) as error:
        mix(torch.ones(2, 3, 4, 4), torch.ones(2, 4, 4), torch.tensor([1, 0]))
    assert error.traceback[-1].path.name == 'mixing.py' and not tool._is_refusal(error.value)


@pytest.mark.slow
def test_the_page_says_what_happens(folder, outcomes):
    table = {
        cell: outcomes[cell] if cell in outcomes else tool.try_cell(folder, *cell) for cell in CELLS
    }
    refused = {
        what: outcomes[what] if what in outcomes else tool.try_refused(folder, what)
        for what in tool.REFUSED
    }
    page = tool.OUT.read_text() if tool.OUT.exists() else ''
    (line,) = TRIED_WITH.findall(page) or ['']
    wanted = tool.document(table, refused, line)
    assert page == wanted, f'{tool.OUT.name} is out of date; write it with: {tool.COMMAND}'
