from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS
from tool_runs import CONFIGS

import mmseg_semi

from ..conftest import SEGMENTOR
from ..corrmatch import (
    COARSE,
    EMA,
    HARD,
    PADDED,
    REGIONS,
    SOFT,
    reference_ce,
    reference_correlation,
    reference_soft,
    sharpen,
    truth_of,
)
from ..helpers import hooked, run_step


def test_labels_alone_train_all_its_parameters_in_the_warm_up(corrmatch, batch):
    model = corrmatch(COARSE, warmup_iters=5, refiners=dict(select=EMA, regions=REGIONS))
    model.set_progress(4, 10)
    losses = model(**model.data_preprocessor(batch(**PADDED), True), mode='loss')
    assert {name for name in losses if 'loss' in name} == {
        *('decode.loss_ce', 'correlation.labeled.loss_ce')
    }
    model.parse_losses(losses)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    for name, parameter in model.heads.named_parameters():
        assert 'w2.bias' in name or parameter.grad.abs().sum() > 0, name
    model.refiners['select'].update_state()
    assert model.refiners['select'].value == 0.6, 'no pseudo-label, no update'
    model.set_progress(5, 10)
    assert 'correlation.loss' in run_step(model, batch(**PADDED))[1]


def test_nothing_of_it_is_in_the_segmentor_or_runs_in_predict(corrmatch, build, batch):
    model = corrmatch(COARSE, refiners=dict(select=EMA, regions=REGIONS), losses=dict(HARD, s=SOFT))
    plain = MODELS.build(ConfigDict(deepcopy(SEGMENTOR)))
    assert model.segmentor.state_dict().keys() == plain.state_dict().keys()
    outside = {k for k in model.state_dict() if not k.startswith('segmentor.')}
    assert {k.split('.')[0] for k in outside} == {'heads', 'refiners'}
    assert {k for k in outside if 'refiners' in k} == {'refiners.select.value'}
    assert {k.split('.')[2] for k in outside if 'heads' in k} == {'project', 'w1', 'w2'}
    inside = {id(p) for p in model.segmentor.parameters()}
    assert not inside & {id(p) for p in model.heads.parameters()}

    calls = []
    for part in (*model.heads.modules(), *model.refiners.modules(), *model.losses.modules()):
        part.register_forward_hook(lambda module, args, out: calls.append(module))
    plain.load_state_dict(model.segmentor.state_dict())
    images = batch()['labeled']
    results = []
    for network in (model, plain):
        network.eval()
        with torch.no_grad():
            found = network.test_step(deepcopy(images))
        results.append([one.seg_logits.data for one in found])
    assert not calls
    assert all(torch.equal(*pair) for pair in zip(*results))
    model.train()
    run_step(model, batch())
    assert calls


def test_the_shipped_method_is_the_papers_sum(batch):
    r"""L = 1/2 (L_s + L_u), L_s = 1/2 (hard + corr), L_u = 1/2 hard + 1/4 soft + 1/4 corr."""
    method = Config.fromfile(CONFIGS / '_base_/methods/corrmatch.py').method.to_dict()
    torch.manual_seed(0)
    model = hooked(sharpen(MODELS.build(ConfigDict(method, segmentor=deepcopy(SEGMENTOR)))))
    assert model.refiners['select'].value == 0.85 and model.refiners['select'].momentum == 0.999
    assert model.refiners['regions'].num_shapes == 128
    assert model.heads['correlation'].project[1].p == 0.1
    model.heads['correlation'].project[1].p = 0.0
    with torch.no_grad():
        model.segmentor.decode_head.conv_seg.weight.mul_(3.0)
    step, losses = run_step(model, batch(**PADDED, views=1))
    assert 0.05 < float(losses['selected']) < 0.95 and len(step.streams['strong']) == 1
    truth, (view,) = truth_of(step), step.streams['strong']
    z, correlation = reference_correlation(model, step, 'encoder')

    hard_s = F.cross_entropy(step.labeled.logits, truth, ignore_index=255)
    loss_s = (hard_s + F.cross_entropy(z, truth, ignore_index=255)) / 2
    streams = ((view.outputs, view.pseudo), (step.streams['perturbed'][0].outputs, step.pseudo))
    hard_u = sum(reference_ce(outputs.logits, pseudo) for outputs, pseudo in streams) / 2
    each = reference_soft(view.outputs.logits, view.mix(step.raw_pseudo.logits), 'kl')
    before = view.mix(step.refined['select'].used)
    soft = (each * before).sum() / view.pseudo.valid.sum()
    loss_u = hard_u / 2 + soft / 4 + correlation / 4
    assert all(part > 1e-3 for part in (hard_s, hard_u, soft, correlation))
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, ((loss_s + loss_u) / 2).float())


def test_a_step_runs_through_fifteen_files(corrmatch, batch):
    """Who follows it has no more to open; the first step checks more."""
    model = corrmatch(
        COARSE,
        refiners=dict(select=EMA, regions=REGIONS),
        losses=dict(HARD, s=SOFT, perturbed=dict(HARD['strong'], stream='perturbed')),
        mixer=dict(type='CutMix', prob=1.0),
    )
    data, optimizer = batch(**PADDED), OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    model.train_step(deepcopy(data), optimizer)
    package, files = str(Path(mmseg_semi.__file__).parent), set()

    def note(frame, event, _):
        if event == 'call' and frame.f_code.co_filename.startswith(package):
            files.add(frame.f_code.co_filename[len(package) + 1 :])

    sys.setprofile(note)
    try:
        model.train_step(data, optimizer)
    finally:
        sys.setprofile(None)
    expected = {'semi_segmentor', 'correlation_head', 'region_propagation', 'ema_threshold'}
    assert expected | {'cutmix', 'feature_dropout'} <= {Path(one).stem for one in files}
    assert len(files) <= 15, '\n'.join(sorted(files))
