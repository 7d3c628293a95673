"""A teacher that normalizes by the statistics of its images, or by its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ..helpers import begin_step, hooked, shake

TRAIN = dict(teacher=dict(type='EMATeacher', mode='train'))


def pseudo_step(model, data, networks_mode=True):
    model.train(networks_mode)
    step = begin_step(model, data)
    model.make_pseudo_label(step)
    return step


def test_teacher_in_train_mode_normalizes_by_the_batch(build, batch):
    model = hooked(build(**TRAIN))
    data = batch(unlabeled=((32, 32),) * 3)
    step = pseudo_step(model, data)
    with torch.no_grad():
        student = model.segmentor.train()
        raw = student.decode_head(student.extract_feat(step.weak_images))
    torch.testing.assert_close(step.teacher.stages[0], raw)
    other = pseudo_step(hooked(build(teacher=dict(type='EMATeacher'))), data)
    assert not step.teacher.stages[0].allclose(other.teacher.stages[0], atol=0.01)


def test_teacher_in_train_mode_applies_dropout(build, batch):
    model = hooked(build(**TRAIN))
    data = batch()
    first, second = (pseudo_step(model, data).teacher.logits for _ in range(2))
    assert torch.equal(first, second), 'nothing of it is kept'
    model.teacher.network.backbone.register_forward_hook(
        lambda module, _, maps: [F.dropout(m, 0.5, module.training) for m in maps]
    )
    first, second = (pseudo_step(model, data).teacher.logits for _ in range(2))
    assert not torch.equal(first, second)


class Stop(Exception):
    pass


@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('fails', [False, True])
def test_labeling_leaves_the_teacher_as_it_was(build, batch, mode, fails):
    model = hooked(build(teacher=dict(type='EMATeacher', mode=mode)))
    shake(model.teacher.network)
    seen = []

    norm = next(m for m in model.teacher.network.modules() if isinstance(m, torch.nn.BatchNorm2d))

    def look(module, args, output):
        seen.append((module.training, int(norm.num_batches_tracked)))
        if fails:
            raise Stop

    model.teacher.network.decode_head.conv_seg.register_forward_hook(look)
    before = {name: value.clone() for name, value in model.teacher.network.state_dict().items()}
    data = model.data_preprocessor(batch(), True)
    if fails:
        with pytest.raises(Stop):
            model(**data, mode='loss')
    else:
        model(**data, mode='loss')
    # In train mode its norms did count this batch for a while.
    assert seen == [(mode == 'train', int(mode == 'train'))]
    assert not any(module.training for module in model.teacher.network.modules())
    after = model.teacher.network.state_dict()
    assert before.keys() == after.keys() and any('running_var' in name for name in after)
    for name, value in after.items():
        assert torch.equal(value, before[name]), name
    assert not any(value.requires_grad for value in model.teacher.network.parameters())


@pytest.mark.parametrize(
    'teacher, error, message',
    [
        (dict(type='EMATeacher', mode='test'), ValueError, r"mode must be one of .*got 'test'"),
        (dict(type='EMATeacher', mode=None), ValueError, 'mode must be one of .*got None'),
        (dict(type='EMATeacher', momentum=1), ValueError, r'momentum .* in \[0, 1\), got 1'),
        (dict(type='EMATeacher', buffers='none'), ValueError, "buffers must be one .*got 'none'"),
        (dict(type='EMATeacher', warm_up=2), ValueError, 'warm_up must be one of .*got 2'),
        *(
            (
                dict(type='EMATeacher', from_start=True, **one),
                ValueError,
                f'from_start=True .*{shown}',
            )
            for one, shown in (
                (dict(buffers='own', mode='train'), "buffers='own'"),
                (dict(copy_epochs=1), 'copy_epochs=1'),
                (dict(warm_up=False), 'warm_up=False'),
            )
        ),
        (dict(type='EMATeacher', beta=0.9), TypeError, "EMATeacher has no argument 'beta'"),
        (dict(type='EMATeechr'), KeyError, r"'EMATeechr' is not a known Teacher.*'EMATeacher'"),
        (dict(type='CutMix'), KeyError, "'CutMix' is not a known Teacher"),
        (dict(mode='train'), TypeError, 'must be a dict with a `type`'),
        ('ema', TypeError, 'must be a dict with a `type`'),
        (dict(type='ema', mode='train'), ValueError, r"now type='EMATeacher'.*momentum=0\.99"),
    ],
)
def test_unknown_teachers_are_refused(build, teacher, error, message):
    with pytest.raises(error, match=rf'model\.teacher.*{message}'):
        build(teacher=teacher)
