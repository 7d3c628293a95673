"""Components that strangers bring from outside the package: one file and one config each.

They are trained, resumed exactly, tested and extracted by the tools as they are.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmseg
import pytest
import torch
from tool_runs import (
    CONFIGS,
    TOOLS,
    differing,
    forget_logs,
    load_checkpoint,
    read_metrics,
    small_settings,
    train_scalars,
)

pytestmark = pytest.mark.slow
MMSEG_TEST = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'test.py'

# A refiner with state: a buffer that its own hook moves, and a figure in the log.
REFINER = '''
import torch
from mmseg.registry import HOOKS, MODELS

from mmseg_semi.engine.hooks import StateHook
from mmseg_semi.models.component import last_head
from mmseg_semi.models.refiners import BaseRefiner


@MODELS.register_module()
class SurerThanUsual(BaseRefiner):
    """Keep the pixels that are surer than their class has been until now."""

    stage = 'selection'
    hooks = (dict(type='SurerThanUsualHook'),)

    def __init__(self, momentum=0.9):
        super().__init__()
        self.momentum, self.seen = momentum, None

    def attach(self, model):
        self.register_buffer('usual', torch.zeros(last_head(model.segmentor).out_channels))

    def forward(self, pseudo, outputs, step):
        sure = pseudo.confidence >= self.usual[pseudo.label]
        return pseudo.update(selected=pseudo.selected & sure)

    def observe(self, step):
        raw = step.raw_pseudo
        self.seen = self.usual.clone()
        for k in raw.label[raw.valid].unique():
            self.seen[k] = raw.confidence[raw.valid & (raw.label == k)].mean()
        step.log(f'{self.name}.usual', self.usual.mean())

    def update_state(self):
        if self.seen is not None:
            self.usual.lerp_(self.seen, 1 - self.momentum)
            self.seen = None


@HOOKS.register_module()
class SurerThanUsualHook(StateHook):
    kind = SurerThanUsual
'''
# A mixer with randomness of its own.
MIXER = '''
import torch
from mmseg.registry import MODELS

from mmseg_semi.functional import mix_partners
from mmseg_semi.models.mixers import BaseMixer
from mmseg_semi.structures import Mix, View


@MODELS.register_module()
class HalfMix(BaseMixer):
    """Take the left or the right half of each image from another one."""

    def forward(self, images, pseudo, step):
        batch, _, height, width = images.shape
        left = torch.rand(batch, device=images.device) < 0.5
        inside = (torch.arange(width, device=images.device) < width // 2).expand(height, width)
        plan = Mix(inside == left[:, None, None], mix_partners(batch).to(images.device))
        step.log('mixer.left', left.float().mean())
        return View(plan(images), pseudo.map(plan), plan)
'''
# A framework: a subclass of SemiSegmentor with an argument of its own, and a perturbation.
FRAMEWORK = '''
import torch
from mmseg.registry import MODELS

from mmseg_semi.models.perturbations import BasePerturbation
from mmseg_semi.models.segmentors import SemiSegmentor


@MODELS.register_module()
class ComplementaryDropout(BasePerturbation):
    """What one of two strong views loses, the other one keeps, doubled."""

    def __init__(self, prob=0.5):
        super().__init__()
        self.prob = prob

    def forward(self, maps, views):
        count, widest = len(maps[0]) // views, max(one.shape[1] for one in maps)
        keep = (torch.rand(count, widest, 1, 1, device=maps[0].device) < self.prob).to(maps[0])
        factor = torch.cat([2 * keep, 2 - 2 * keep])
        return [one * factor[:, : one.shape[1]] for one in maps]


@MODELS.register_module()
class UniMatchV2(SemiSegmentor):
    """A slow teacher, and two strong views whose dropout is complementary."""

    def __init__(self, teacher_momentum=0.996, **kwargs):
        super().__init__(
            teacher=dict(type='EMATeacher', momentum=teacher_momentum),
            streams=dict(strong=dict(perturbation=dict(type='ComplementaryDropout'))),
            **kwargs,
        )
'''
CONFIG = """
_base_ = [
    '{configs}/_base_/default_runtime.py',
    '{configs}/_base_/datasets/digit_scenes.py',
    '{configs}/_base_/models/unet_digit_scenes.py',
    '{configs}/_base_/schedules/digit_scenes.py',
    '{configs}/_base_/methods/fixmatch.py',
]
custom_imports = dict(imports=['mmseg_semi', '{module}'], allow_failed_imports=False)
method = _base_.method
method.refiners.select.threshold = 0.2
{changes}
model = dict(_delete_=True, segmentor=_base_.model, **method)
"""
TEACHER = "method.teacher = dict(type='EMATeacher', momentum=0.6)"
STRANGERS = dict(
    own_refiner=(
        REFINER,
        f"{TEACHER}\nmethod.refiners = dict(select=dict(type='SurerThanUsual', momentum=0.5))",
    ),
    own_mixer=(MIXER, f"{TEACHER}\nmethod.mixer = dict(type='HalfMix')"),
    own_framework=(
        FRAMEWORK,
        "method.type = 'UniMatchV2'\nmethod.teacher_momentum = 0.6\n"
        'train_dataloader = dict(dataset=dict(unlabeled=dict(strong=dict(num_views=2))))',
    ),
)


@dataclass
class Stranger:
    """A stranger's folder, config and finished run."""

    module: str
    folder: Path
    run: Any

    @property
    def config(self) -> Path:
        return self.folder / 'small.py'

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'work' / 'iter_8.pth'

    def train(self, config: Path, work_dir: Path, *args: str, code: int = 0) -> str:
        tool = TOOLS / 'train.py'
        done = self.run(tool, config, '--work-dir', work_dir, *args, code=code, paths=[self.folder])
        return done.output


@pytest.fixture(scope='module', params=STRANGERS)
def stranger(request, server, digit_root, tmp_path_factory):
    """One that has trained 8 iterations, on tiny images and a tiny network."""
    module, folder = request.param, tmp_path_factory.mktemp(request.param)
    source, changes = STRANGERS[module]
    (folder / f'{module}.py').write_text(source)
    config = CONFIG.format(configs=CONFIGS, module=module, changes=changes)
    (folder / f'{module}_unet_digit-scenes-60.py').write_text(config)
    settings = small_settings(module, digit_root)
    settings['model'].pop('refiners')
    one = Stranger(module, folder, server.run)
    write(one.config, folder / f'{module}_unet_digit-scenes-60.py', **settings)
    one.train(one.config, folder / 'work')
    return one


def write(path: Path, base: Path, **settings: Any) -> Path:
    lines = [f'_base_ = {str(base)!r}', *(f'{k} = {v!r}' for k, v in settings.items())]
    path.write_text('\n'.join(lines) + '\n')
    return path


def test_it_takes_part_in_training(stranger):
    values = list(train_scalars(stranger.folder / 'work').values())
    state = load_checkpoint(stranger.checkpoint)['state_dict']
    assert len(values) == 8 and all(0 < step['selected'] < 1 for step in values[3:])
    assert all(step['strong.loss'] > 0 for step in values)
    student = {k: v for k, v in state.items() if k.startswith('segmentor.') and 'weight' in k}
    assert student
    for key, value in student.items():
        own = state['teacher.' + key[len('segmentor.') :]]
        assert not torch.equal(own, value), key
    if stranger.module == 'own_refiner':
        usual = [step['select.usual'] for step in values]
        assert usual[0] == 0 and usual[1] > 0 and len(set(usual)) == 8
        expected = state['refiners.select.usual']
        assert expected.shape == (6,) and expected.mean() > usual[-1] * 0.5
    elif stranger.module == 'own_mixer':
        assert {step['mixer.left'] for step in values} > {0.5}
    else:
        assert not any('perturbed' in name for step in values for name in step)


def test_a_killed_and_resumed_run_is_the_uninterrupted_one(stranger, tmp_path):
    imports = ['mmseg_semi', stranger.module, 'run_hooks']
    killer = write(
        tmp_path / 'killer.py',
        stranger.config,
        custom_imports=dict(imports=imports, allow_failed_imports=False),
        custom_hooks=[dict(type='DataCheckHook'), dict(type='KillHook', iteration=5)],
    )
    work_dir = tmp_path / 'work'
    stranger.train(killer, work_dir, code=-signal.SIGKILL)
    assert not (work_dir / 'iter_6.pth').exists()
    forget_logs(work_dir)
    output = stranger.train(stranger.config, work_dir, '--resume')
    assert 'iter_4.pth' in output
    wanted, got = (train_scalars(folder) for folder in (stranger.folder / 'work', work_dir))
    assert got == {step: wanted[step] for step in (5, 6, 7, 8)}
    ends = [load_checkpoint(path) for path in (stranger.checkpoint, work_dir / 'iter_8.pth')]
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert differing(*(end[part] for end in ends), part) == []


def test_both_networks_are_tested_and_extracted(stranger, server, plain_server, tmp_path):
    """The extracted models need nobody's code: mmseg's own tool gives the same figures."""
    paths = dict(paths=[stranger.folder])
    args = (stranger.config, stranger.checkpoint)
    both = ('--predict-with', 'both', '--work-dir', tmp_path / 'both')
    server.run(TOOLS / 'test.py', *args, *both, **paths)
    metrics = read_metrics(tmp_path / 'both')
    assert {'mIoU', 'teacher/mIoU'} < metrics.keys()
    for which, prefix in (('student', ''), ('teacher', 'teacher/')):
        out = tmp_path / f'{which}.pth'
        tool = TOOLS / 'model_converters' / 'extract_segmentor.py'
        server.run(tool, args[1], '--config', args[0], '--out', out, '--which', which, **paths)
        work_dir = tmp_path / which
        plain_server.run(MMSEG_TEST, out.with_suffix('.py'), out, '--work-dir', work_dir)
        for name, value in read_metrics(work_dir).items():
            assert value == metrics[prefix + name], (which, name)
