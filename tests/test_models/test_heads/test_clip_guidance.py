"""Guidance by CLIP's own weights: labels, losses, and which weights they are of."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import HOOKS, MODELS
from mmseg.structures import SegDataSample

from mmseg_semi.models.mixers import CutMix
from mmseg_semi.models.segmentors.building import needed_hooks
from mmseg_semi.structures import Mix

from ..by_hand import METHODS
from ..conftest import UNIMATCH
from ..helpers import runner_of

TEXTS = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
CLASSES = torch.tensor([0, 1, 1, 2])
ENCODER = dict(type='CLIPVisionTransformer', channels=8, depth=2, heads=2, embed_dim=4)
HEAD = dict(
    type='LanguageGuidedHead',
    in_channels=(8, 8, 4),
    channels=16,
    widths=(16, 16),
    skip_channels=(4, 4),
    num_classes=3,
    loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
)


@pytest.fixture
def text_file(tmp_path):
    torch.save(dict(embeddings=TEXTS, classes=CLASSES), tmp_path / 'texts.pt')
    return str(tmp_path / 'texts.pt')


DETAIL = dict(type='ResNetV1c', depth=50, num_stages=1, out_indices=(0,), strides=(1,))
DETAIL.update(dilations=(1,), base_channels=2, stem_channels=4, norm_eval=True)


def build(text=None, init_cfg=None, boxes=None, detail=None, **changes):
    """SemiVL's preset with a tiny network that has begun a run."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(METHODS / 'semivl.py')
    cfg.merge_from_dict({f'method.{key}': value for key, value in changes.items()})
    segmentor = dict(
        type='PatchEncoderDecoder',
        data_preprocessor=dict(type='SemiDataPreprocessor', size=(32, 32)),
        backbone=dict(
            ENCODER, out_indices=(1,) if detail else (0, 1), detail=detail, init_cfg=init_cfg
        ),
        decode_head=dict(HEAD, text=text),
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(0)
    model = MODELS.build(dict(segmentor=segmentor, **deepcopy(cfg.method)))
    model.init_weights()
    model.set_progress(25, 100, 10)
    begin(model)
    return model.train()


def begin(model, iteration=0):
    """Let the hooks begin a run, or go on with one."""
    for cfg in needed_hooks(model):
        HOOKS.build(dict(cfg)).before_train(runner_of(model, iteration))


def batch(images=2):
    torch.manual_seed(5)
    truth = torch.zeros(1, 32, 32, dtype=torch.int64)
    inputs = dict(
        labeled=torch.randn(images, 3, 32, 32),
        weak=torch.randn(images, 3, 32, 32),
        strong=[torch.randn(images, 3, 32, 32) for _ in range(2)],
        valid=torch.ones(images, 32, 32, dtype=torch.bool),
    )
    inputs['valid'][0, :, 24:] = False
    samples = [SegDataSample(gt_sem_seg=PixelData(data=truth)) for _ in range(images)]
    return inputs, dict(labeled=samples, unlabeled=[SegDataSample() for _ in range(images)])


def take(model, **changes):
    steps = []
    model.add_observer(steps.append)
    inputs, samples = batch()
    losses = model.loss({**inputs, **changes}, samples)
    return steps[-1], losses


@pytest.fixture
def left_halves(monkeypatch):
    """Every image takes its left half from the other one."""

    def plan(self, images, step):
        mask = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
        mask[..., :16] = True
        return Mix(mask, torch.arange(len(images)).roll(-1))

    monkeypatch.setattr(CutMix, 'plan', plan)


def started(model):
    """Weights that differ from those that the run began with, as in a resumed run."""
    for one in model.segmentor.parameters():
        torch.nn.init.normal_(one, std=0.3)


def weights_file(tmp_path):
    """Weights of CLIP: a file, and the encoder that has them."""
    torch.manual_seed(9)
    encoder = MODELS.build(dict(ENCODER, out_indices=(0, 1))).eval()
    for name, one in encoder.named_parameters():
        if 'norm' not in name:
            torch.nn.init.normal_(one, std=0.5)
    torch.save(dict(state_dict=encoder.state_dict()), tmp_path / 'clip.pth')
    return dict(type='Pretrained', checkpoint=str(tmp_path / 'clip.pth')), encoder


def test_labels_and_losses_by_hand(tmp_path, left_halves):
    """lambda (1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp), each over all pixels; some have no label."""
    init_cfg, clip = weights_file(tmp_path)
    inputs, _ = batch()
    with torch.no_grad():
        image = clip(inputs['weak'])[-1]
    texts = image[:, :, 0].transpose(1, 2).flatten(0, 1)  # of four patches
    torch.save(dict(embeddings=texts, classes=CLASSES), tmp_path / 'texts.pt')
    model = build(str(tmp_path / 'texts.pt'), init_cfg, **{'heads.guidance.threshold': 0.7})
    started(model)
    step, losses = take(model)
    cosine = torch.stack([(image * text[:, None, None]).sum(1) for text in texts], 1)
    prob = (100 * F.interpolate(cosine, (32, 32), mode='bilinear', align_corners=False)).softmax(1)
    best, text = prob.max(1)
    assert text.unique().tolist() == [0, 1, 2, 3]
    label = CLASSES[text]
    label[(best < 0.7) | ~inputs['valid']] = 255
    assert 0.05 < (label == 255).float().mean() < 0.95
    mixed = torch.cat([label.flip(0)[..., :16], label[..., 16:]], dim=-1)

    def loss(view, label):
        every = F.cross_entropy(view.outputs.logits, label, reduction='sum', ignore_index=255)
        return every / label.numel()

    strong = [loss(view, mixed) for view in step.streams['strong']]
    (perturbed,) = [loss(view, label) for view in step.streams['perturbed']]
    wanted = 0.075 * (sum(strong) / 4 + perturbed / 2)
    assert float(losses['guidance.weight']) == pytest.approx(0.075)
    used = (label != 255).sum() / inputs['valid'].sum()
    assert float(losses['guidance.selected']) == pytest.approx(float(used))
    torch.testing.assert_close(losses['guidance.loss'], wanted)
    assert wanted > 1e-3


def test_weights_of_pixels_weigh_it_too(tmp_path, text_file):
    init_cfg, _ = weights_file(tmp_path)
    weight = dict(type='RankStatisticsWeight', k=2, tap='encoder')
    model = build(text_file, init_cfg, **{'refiners.weight': weight, 'heads.guidance.threshold': 0})
    refiner = model.refiners['weight']
    refiner.weigh = lambda features, label, *_: torch.full(label.shape, 0.25)
    step, losses = take(model)
    assert step.teacher.features['encoder'].shape == (2, 4, 2, 2)
    plain = build(text_file, init_cfg, **{'heads.guidance.threshold': 0})
    for views in step.streams.values():
        for view in views:
            if view.pseudo is not None:
                view.pseudo = view.pseudo.update(weight=None)
    torch.testing.assert_close(4 * losses['guidance.loss'], plain.heads['guidance'](step)['loss'])


@pytest.mark.parametrize('detail', [None, DETAIL])
def test_clip_is_what_the_run_began_with_in_a_resumed_run_too(tmp_path, detail):
    init_cfg, clip = weights_file(tmp_path)
    model = build(init_cfg=init_cfg, detail=detail)
    started(model)
    take(model)

    def check(model):
        found = model.heads['guidance'].network
        assert all(map(torch.equal, found.parameters(), clip.parameters()))
        student = model.segmentor.backbone.parameters()
        assert not any(map(torch.equal, found.parameters(), student))
        names = [name for name, _ in found.named_parameters()]
        assert names == [name for name, _ in clip.named_parameters()]  # none of detail

    check(model)
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert not any('guidance' in name for name in trained) and trained
    again = build(detail=detail)
    again.load_state_dict(model.state_dict())
    begin(again, 25)
    check(again)
    later = build(detail=detail)  # load_from: the student is trained, CLIP is in the checkpoint
    later.load_state_dict(model.state_dict())
    begin(later, 0)
    check(later)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'heads.guidance.weights': dict(strang=1.0)}, "weights has 'strang'.* 'strong'"),
        ({'heads.guidance.weights': dict(labeled=1.0)}, 'no stream of unlabeled images'),
        ({'heads.guidance.weights': dict(strong=-1.0)}, r"weights\['strong'\] must be a number >="),
        ({'heads.guidance.threshold': 2.0}, 'threshold must be a number in'),
    ],
)
def test_what_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_another_network_is_refused():
    cfg = deepcopy(UNIMATCH)
    cfg['heads'] = dict(guidance=dict(type='CLIPGuidance'))
    init_default_scope('mmseg')
    with pytest.raises(ValueError, match='model.heads.guidance: .*has UNet and FCNHead: build on'):
        MODELS.build(cfg)


def test_the_tap_of_a_classifier_is_refused():
    weight = dict(type='RankStatisticsWeight', k=2)
    with pytest.raises(ValueError, match="LanguageGuidedHead decodes each class alone.*'encoder'"):
        build(**{'refiners.weight': weight})
