"""CorrMatch: small configs, and its losses written from the formulas."""

from __future__ import annotations

import torch
import torch.nn.functional as F

COARSE = dict(tap='backbone.decoder.1', in_channels=8)  # 8 x 8, the logits are 16 x 16
PADDED = dict(labeled=((32, 32), (32, 24)), unlabeled=((32, 32), (28, 32), (32, 16)))
HARD = dict(
    strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=0.125),
    perturbed=dict(type='PseudoLabelCrossEntropy', stream='perturbed', loss_weight=0.125),
)
SOFT = dict(type='SoftConsistencyLoss', loss_weight=0.125)
FIXED = dict(type='ConfidenceThreshold', threshold=0.6)
EMA = dict(type='EMAThreshold', initial=0.6, momentum=0.9)
REGIONS = dict(type='RegionPropagation', num_shapes=24, threshold=0.4)


def head_cfg(**changes):
    return dict(type='CorrelationHead', hidden_channels=8, dropout=0.0, **changes)


def sharpen(model):
    """Weights with which predictions vary and are sometimes sure, and norms do something."""
    torch.manual_seed(1)
    with torch.no_grad():
        model.segmentor.decode_head.conv_seg.weight.mul_(3.0)
        for part in model.heads.values():
            for parameter in part.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape))
            part.project[0].norm.weight.add_(1.5)
    return model


def reference_maps(head, features):
    """w1 and w2 of one batch that is normalized together."""
    conv, norm = head.project[0].conv, head.project[0].norm
    hidden = F.conv2d(features, conv.weight, padding=1)
    hidden = F.batch_norm(hidden, None, None, norm.weight, norm.bias, True, eps=norm.eps).relu()
    return [F.conv2d(hidden, layer.weight, layer.bias) for layer in (head.w1, head.w2)]


def reference_z(logits, w1, w2, size, corners, scale):
    """Propagate with the whole correlation map, then resize."""
    grid, depth = w1.shape[-2:], w1.shape[1]
    logits = logits.detach()
    if logits.shape[-2:] != grid:
        logits = F.interpolate(logits, grid, mode='bilinear', align_corners=corners)
    scores = torch.einsum('bdi,bdj->bij', w1.flatten(2), w2.flatten(2))
    if scale == 'inside':
        attention = (scores / depth**0.5).softmax(-1)
    else:
        attention = scores.softmax(-1) / depth**0.5
    z = torch.einsum('bki,bij->bkj', logits.flatten(2), attention).unflatten(2, grid)
    return F.interpolate(z, size, mode='bilinear', align_corners=corners)


def reference_ce(logits, pseudo):
    loss = F.cross_entropy(logits, pseudo.label, reduction='none')
    return (loss * (pseudo.selected & pseudo.valid)).sum() / pseudo.valid.sum()


def truth_of(step):
    return torch.cat([sample.gt_sem_seg.data for sample in step.labeled_samples])


def reference_correlation(model, step, tap, corners=False, scale='inside'):
    """Labeled logits z, and the unlabeled loss without its weight."""
    head = model.heads['correlation']
    features = [outputs.features[tap] for outputs in (step.labeled, step.weak)]
    first = [w.split([len(f) for f in features]) for w in reference_maps(head, torch.cat(features))]
    labeled, weak = zip(*first)

    def z(outputs, maps):
        return reference_z(outputs.stages[-1], *maps, outputs.size, corners, scale)

    strong_maps = reference_maps(
        head, torch.cat([view.outputs.features[tap] for view in step.streams['strong']])
    )
    maps = zip(*[w.chunk(len(step.streams['strong'])) for w in strong_maps])
    strong = [reference_ce(z(v.outputs, m), v.pseudo) for v, m in zip(step.streams['strong'], maps)]
    unlabeled = (reference_ce(z(step.weak, weak), step.pseudo) + sum(strong) / len(strong)) / 2
    return z(step.labeled, labeled), unlabeled


def reference_soft(logits, target, kind):
    """Each pixel's distance to the target distribution, in float64."""
    p, t = logits.double().softmax(1), target.detach().double().softmax(1)
    if kind == 'kl':
        return (t * (t.log() - p.log())).sum(1)
    if kind == 'cross_entropy':
        return -(t * p.log()).sum(1)
    return 1 - (p * t).sum(1) / (p.square().sum(1).sqrt() * t.square().sum(1).sqrt())
