"""U2PL's configs and runs."""

from __future__ import annotations

import math
import shutil

import pytest
from tool_runs import (
    CONFIGS,
    TOOLS,
    differing,
    load_checkpoint,
    load_config,
    merged,
    small_settings,
    train_scalars,
)

U2PL = 'u2pl/u2pl_unet_digit-scenes-60.py'


@pytest.fixture(scope='module')
def train_u2pl(server, digit_root, tmp_path_factory):
    def train(*args, work_dir=None):
        settings = small_settings(U2PL, digit_root)
        del settings['model']['refiners']
        settings = merged(settings, dict(model=dict(warmup_iters=2)))
        folder = tmp_path_factory.mktemp('u2pl')
        lines = [f'{key} = {value!r}' for key, value in settings.items()]
        config = folder / 'config.py'
        config.write_text('\n'.join([f'_base_ = {str(CONFIGS / U2PL)!r}', *lines]) + '\n')
        work_dir = work_dir or folder / 'work'
        server.run(TOOLS / 'train.py', config, '--work-dir', work_dir, *args)
        return work_dir

    return train


def test_digit_scenes_train_and_resume_exactly(train_u2pl, tmp_path):
    whole = train_u2pl()
    values = train_scalars(whole)
    assert list(values) == list(range(1, 9))
    assert all(math.isfinite(x) for step in values.values() for x in step.values())
    losses = [values[i]['contrast.loss'] for i in range(1, 9)]
    assert losses[:3] == [0, 0, 0] and any(x > 0 for x in losses[3:])
    assert 'strong.loss' not in values[2] and 'strong.loss' in values[3]
    (tmp_path / 'work').mkdir()
    shutil.copy(whole / 'iter_4.pth', tmp_path / 'work')
    resumed = train_u2pl('--resume', work_dir=tmp_path / 'work')
    assert train_scalars(resumed) == {step: values[step] for step in (5, 6, 7, 8)}
    ends = [load_checkpoint(folder / 'iter_8.pth')['state_dict'] for folder in (whole, resumed)]
    assert differing(*ends) == [] and ends[0]['heads.contrast.bank.counts'].any()
    project = [k for k in ends[0] if k.startswith('heads.contrast.project.') and 'weight' in k]
    for name in project:
        teacher = ends[0][name.replace('.project.', '.teacher_project.')]
        assert not teacher.equal(ends[0][name])


def test_the_method_is_cutmix_seg_with_entropies_and_contrast():
    config = load_config(CONFIGS / 'u2pl' / 'u2pl_deeplabv3plus_r101_voc12-92.py')
    model = config.model
    assert model.refiners.select == dict(type='QuantileThreshold', score='entropy', alpha=0.2)
    assert model.losses.strong.denominator == 'selected' and model.mixer.prob == 0.5
    assert model.heads.contrast.bank == dict(size=30000, first_size=50000)
    assert model.teacher == dict(type='EMATeacher', momentum=0.99)
    listed = str(config.get('custom_hooks'))
    assert 'MeanTeacherHook' not in listed and 'MemoryBankHook' not in listed
