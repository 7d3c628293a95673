from __future__ import annotations

import torch

from mmseg_semi.models.mixers import cutmix

from ..helpers import run_step
from ..steps import mixed_step


def test_cutmix_mixes_each_view_with_its_own_box_and_its_pseudo_label(build, batch):
    model = build(mixer=dict(type='CutMix', prob=1.0))
    step = mixed_step(model, batch(unlabeled=((32, 32),) * 4))
    views = step.streams['strong']
    assert len(views) == 2
    for view, images in zip(views, step.strong_images):
        assert view.mix.mask.flatten(1).any(1).all()
        for b, partner in enumerate(view.mix.partners.tolist()):
            assert partner != b
            mask = view.mix.mask[b]
            assert torch.equal(view.image[b][:, mask], images[partner][:, mask])
            assert torch.equal(view.image[b][:, ~mask], images[b][:, ~mask])
            assert torch.equal(view.pseudo.label[b][mask], step.pseudo.label[partner][mask])
            assert torch.equal(view.pseudo.label[b][~mask], step.pseudo.label[b][~mask])
            assert torch.equal(view.pseudo.selected[b][mask], step.pseudo.selected[partner][mask])
    assert not torch.equal(views[0].mix.mask, views[1].mix.mask)
    assert views[0].pseudo.prob is None, 'nothing reads it, so it is not mixed'


def test_a_batch_of_one_unlabeled_image_is_not_mixed_and_says_so_once(build, batch, monkeypatch):
    model = build(mixer=dict(type='CutMix', prob=1.0))
    warnings = []
    monkeypatch.setattr(cutmix, 'print_log', lambda message, **_: warnings.append(message))
    for _ in range(2):
        run_step(model, batch(unlabeled=((32, 32),)))
    assert len(warnings) == 1 and 'nothing is mixed' in warnings[0]
