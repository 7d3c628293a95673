"""U2PL's configs and runs."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
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

from ..by_hand import image, preset, take_step

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
    select = dict(type='QuantileThreshold', score='entropy', alpha=0.2, decay_by='epoch')
    assert model.refiners.select == select and model.mixer.prob == 0.5
    strong = model.losses.strong
    assert (strong.denominator, strong.scale) == ('selected', 'inverse_share')
    assert model.heads.contrast.bank == dict(size=30000, first_size=50000)
    assert model.teacher == dict(type='EMATeacher', momentum=0.99)
    listed = str(config.get('custom_hooks'))
    assert 'MeanTeacherHook' not in listed and 'MemoryBankHook' not in listed


def test_the_papers_step_by_hand():
    """Two unlabeled images of 4x4 pixels, three classes, representations that are the logits.

    Labeled pixels are (3, 0, 0), of class 0. Unlabeled: 16 pixels (0, 4, 0) of the least entropy,
    12 (0, 0, 3) and 4 (0, 1, 2) of the largest. At iteration 5 of 8, in epoch 1 of 2, alpha is
    .2 * 1/2 = .1, and quantiles of the 32 entropies lie at the places .1 * 31 = 3.1 and 27.9: low
    ones are those of (0, 4, 0); from the 28th (0, 0, 3) to the 29th (0, 1, 2) nine tenths of the
    way the high ones begin, and the selected end.

    L_u = 32/28 times the mean over the 28. Contrast: class 0 has the labeled pixels, class 1 the
    16, class 2 none. All anchors of a class are one vector and equal its positive. The queues hold
    (4, 0, 3), at a cosine of .8 to class 0, and (0, 3, 4), at .6 to class 1; each is drawn twice:
    log(1 + 2 exp((cos - 1) / .5)). Then (0, 1, 2) enters the queues of classes 0 and 1, which rank
    last and second there.
    """
    head = dict(num_convs=0, channels=3, num_queries=3, num_negatives=2)
    model = preset('u2pl', **{'heads.contrast.' + key: value for key, value in head.items()})
    bank = model.heads['contrast'].bank
    items = torch.tensor([[[4.0, 0, 3]], [[0, 3, 4]], [[1, 1, 1]]], dtype=torch.float64)
    bank.push(items, torch.tensor([[True], [True], [False]]))
    unsure = image([0, 0, 3], ((3,), [0, 1, 2]))
    unlabeled = torch.stack([image([0, 4, 0]), unsure])
    labeled = image([3, 0, 0]).repeat(2, 1, 1, 1)
    truth = torch.zeros(2, 4, 4, dtype=torch.int64)
    step, losses, total = take_step(model, labeled, truth, unlabeled, progress=(5, 8, 4))

    def entropy(*logits):
        prob = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
        return -sum(p * math.log(p) for p in prob)

    border = 0.1 * entropy(0, 0, 3) + 0.9 * entropy(0, 1, 2)
    assert float(losses['select.threshold']) == pytest.approx(-border, rel=1e-6)
    assert step.pseudo.selected[0].all() and step.pseudo.selected[1].sum() == 12
    surest, sure = math.log(1 + 2 * math.exp(-4)), math.log(1 + 2 * math.exp(-3))
    unlabeled_loss = 32 / 28 * (16 * surest + 12 * sure) / 28
    assert float(losses['strong.loss']) == pytest.approx(unlabeled_loss, rel=1e-9)
    contrast = sum(math.log(1 + 2 * math.exp((c - 1) / 0.5)) for c in (0.8, 0.6)) / 2
    assert float(losses['contrast.loss']) == pytest.approx(0.1 * contrast, rel=1e-9)
    # mmseg adds float32's epsilon to the number of labeled pixels, 32.
    assert float(total) == pytest.approx(sure + unlabeled_loss + 0.1 * contrast, rel=1e-8)
    assert bank.counts.tolist() == [5, 5, 0]
    new = torch.tensor([0.0, 1, 2], dtype=torch.float64)
    assert bank.features[1:5].eq(new).all() and bank.features[50001:50005].eq(new).all()
