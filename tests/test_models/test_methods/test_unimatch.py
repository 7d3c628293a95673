"""UniMatch's step against its formula."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper

from ..helpers import logits_of


def unimatch_reference(segmentor, inputs, samples, threshold):
    """UniMatch's loss written from its formula, for unmixed views and dropout 0."""
    count = len(inputs['labeled'])
    truth = torch.cat([sample.gt_sem_seg.data for sample in samples['labeled']])
    logits = logits_of(segmentor, torch.cat([inputs['labeled'], inputs['weak']]))
    supervised = F.cross_entropy(logits[:count], truth, ignore_index=255)
    confidence, label = logits[count:].detach().softmax(1).max(1)
    chosen = (confidence >= threshold) & inputs['valid']

    def unsupervised(stream):
        loss = F.cross_entropy(stream, label, reduction='none')
        return (loss * chosen).sum() / inputs['valid'].sum()

    first, second = logits_of(segmentor, torch.cat(inputs['strong'])).chunk(2)
    # With dropout 0 the perturbed stream repeats the decoding of the weak features.
    maps = segmentor.extract_feat(torch.cat([inputs['labeled'], inputs['weak']]))
    perturbed = segmentor.decode_head([m[count:] for m in maps])
    perturbed = F.interpolate(perturbed, (32, 32), mode='bilinear', align_corners=False)
    return 0.5 * (
        supervised
        + 0.25 * unsupervised(first)
        + 0.25 * unsupervised(second)
        + 0.5 * unsupervised(perturbed)
    )


def test_unimatch_is_the_papers_formula_in_loss_and_weights_after_one_step(build, batch):
    model = build()
    other = deepcopy(model.segmentor)
    data = batch(labeled=((32, 32), (32, 24)), unlabeled=((32, 32), (28, 32), (32, 16)))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    logged = model.train_step(deepcopy(data), optimizer)

    prepared = model.data_preprocessor(deepcopy(data), True)
    loss = unimatch_reference(other, prepared['inputs'], prepared['data_samples'], 0.6)
    assert 0.05 < float(logged['selected']) < 0.95, 'the threshold must select some pixels'
    torch.testing.assert_close(logged['loss'], loss)
    reference = torch.optim.SGD(other.parameters(), lr=0.1)
    loss.backward()
    reference.step()
    for (name, ours), theirs in zip(model.segmentor.named_parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, msg=name, rtol=1e-4, atol=1e-6)
