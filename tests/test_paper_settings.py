"""The constants that the papers fix, typed out here, against what the configs resolve to.

Written from the papers' descriptions and not from the configs; where no paper says a number (see
docs/reproduce.md) the value here is ours, marked with a star in the comments.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from tool_runs import CONFIGS

from mmseg_semi.datasets.transforms.named_transforms import list_transforms
from mmseg_semi.models import EMATeacher
from mmseg_semi.utils.config import load_config
from mmseg_semi.zoo import check_configs as checker

FIXED, EMA, QUANTILE = 'ConfidenceThreshold', 'EMAThreshold', 'QuantileThreshold'
MARGIN = dict(type=QUANTILE, score='margin', alpha=0.4)
ENTROPY = dict(type=QUANTILE, score='entropy', alpha=0.2)
CORRMATCH = dict(type=EMA, initial=0.85, momentum=0.999)


def fixed(threshold: float) -> dict[str, Any]:
    return dict(type=FIXED, threshold=threshold)


@dataclass
class Setting:
    """What a method has on a data set.

    Attributes:
        lr, head, decay, epochs: Learning rate, factor of the heads, weight decay, passes.
        labeled: Labeled images of an update; as many unlabeled ones.
        stride: Output stride.
        ohem: ``min_kept``, None without OHEM.
        select: The selection of pixels.
        views: Strong views.
        supervised: Weight of the supervised loss.
        losses: Weights of the losses, denominators where they are not the valid pixels.
        teacher: Momentum of the EMA teacher, None without one.
        warm_up: Supervised epochs at the start.
    """

    lr: float
    head: float
    epochs: int
    labeled: int
    stride: int
    select: dict[str, Any] | None
    losses: dict[str, Any]
    decay: float = 1e-4
    ohem: int | None = None
    views: int = 1
    supervised: float = 1.0
    teacher: float | None = None
    warm_up: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


ONE = dict(strong=1.0)
UNIMATCH = dict(strong=0.25, perturbed=0.25)  # 1/2 (1/4 + 1/4) and 1/2 1/2, the mean of two views
VOC = dict(lr=1e-3, head=10, epochs=80)
CITY = dict(lr=5e-3, head=1, epochs=240, labeled=8)
SMALL_VOC = dict(VOC, labeled=3, stride=8, teacher=0.99)  # stride *
SMALL_CITY = dict(lr=1e-2, head=1, decay=5e-4, epochs=240, labeled=2, stride=8, teacher=0.99)
RANK = {'heads.rank.loss_weight': 0.1, 'heads.rank.num_agents': 128, 'heads.rank.top': 4}
CORR = {'heads.correlation.labeled_weight': 0.25, 'heads.correlation.unlabeled_weight': 0.125}
CORR.update({'refiners.regions.num_shapes': 128, 'refiners.regions.strategy': 'random'})
CONTEXT = {'refiners.context.window': 3, 'refiners.context.neighbors': 1}
CONTEXT.update({'refiners.context.criterion': 'max', 'losses.strong.denominator': 'selected'})
CONTRAST = {'heads.contrast.loss_weight': 0.1, 'heads.contrast.channels': 256}
CONTRAST.update({'heads.contrast.bank.size': 30000, 'heads.contrast.bank.first_size': 50000})
AEL = {'losses.strong.gamma': 2.0, 'heads.class_confidence.momentum': 0.999}
WEIGHTS = {'refiners.weight.k': 5, 'refiners.agreement.min_confidence': 0.95}

SETTINGS = {
    'fixmatch_deeplabv3plus_r101_voc12-92': Setting(
        **VOC, labeled=8, stride=16, select=fixed(0.95), losses=ONE
    ),
    'fixmatch_deeplabv3plus_r101_cityscapes-186': Setting(
        **CITY, stride=16, ohem=200000, select=fixed(0.0), losses=ONE
    ),
    'unimatch_deeplabv3plus_r50_voc12-92': Setting(
        **VOC, labeled=8, stride=16, select=fixed(0.95), losses=UNIMATCH, views=2, supervised=0.5
    ),
    'unimatch_deeplabv3plus_r101_voc12-cps-662_513x513': Setting(
        **VOC, labeled=8, stride=16, select=fixed(0.95), losses=UNIMATCH, views=2, supervised=0.5
    ),
    'unimatch_deeplabv3plus_r101_cityscapes-186': Setting(
        **CITY,
        stride=16,
        ohem=200000,
        select=fixed(0.0),
        losses=UNIMATCH,
        views=2,
        supervised=0.5,
    ),
    'unimatch_deeplabv3plus_xception65_coco-232': Setting(
        lr=4e-3,
        head=1,  # *
        epochs=30,
        labeled=8,  # *
        stride=16,
        select=fixed(0.95),
        losses=UNIMATCH,
        views=2,
        supervised=0.5,
    ),
    'corrmatch_deeplabv3plus_r101_voc12-92': Setting(
        **VOC,
        labeled=16,
        stride=8,
        select=CORRMATCH,
        losses=dict(strong=0.125, perturbed=0.125, soft=0.125),
        supervised=0.25,
        extra=CORR,
    ),
    'corrmatch_deeplabv3plus_r101_cityscapes-186': Setting(
        **CITY,
        stride=8,
        ohem=100000,
        select=fixed(0.0),
        losses=dict(strong=0.125, perturbed=0.125, soft=0.125),
        supervised=0.25,
        extra=CORR,
    ),
    'rankmatch_deeplabv3plus_r101_voc12-92': Setting(
        **VOC,
        labeled=8,
        stride=16,
        select=fixed(0.95),
        losses=UNIMATCH,
        views=2,
        supervised=0.5,
        extra=RANK,
    ),
    'rankmatch_deeplabv3plus_r50_cityscapes-186': Setting(
        **CITY,
        stride=16,
        ohem=200000,
        select=fixed(0.0),
        losses=UNIMATCH,
        views=2,
        supervised=0.5,
        extra=RANK,
    ),
    'mean_teacher_deeplabv3plus_r101_voc12-92': Setting(  # * S4MC's schedule
        **SMALL_VOC, select=fixed(0.95), losses=ONE
    ),
    'cutmix_seg_deeplabv3plus_r101_cityscapes-u2pl-186': Setting(  # * S4MC's schedule
        **SMALL_CITY, select=fixed(0.95), losses=ONE
    ),
    's4mc_deeplabv3plus_r101_voc12-92': Setting(
        **SMALL_VOC, select=MARGIN, losses=ONE, extra=CONTEXT
    ),
    's4mc_deeplabv3plus_r101_cityscapes-u2pl-186': Setting(
        **SMALL_CITY, select=MARGIN, losses=ONE, extra=CONTEXT
    ),
    's4mc_fixmatch_deeplabv3plus_r101_voc12-92': Setting(
        **{**SMALL_VOC, 'teacher': None}, select=MARGIN, losses=ONE, extra=CONTEXT
    ),
    'augseg_deeplabv3plus_r101_voc12-92': Setting(
        **VOC,
        labeled=16,  # *
        stride=8,  # *
        select=fixed(0.95),
        losses=ONE,
        teacher=0.999,
        extra={'mixer.type': 'AdaptiveCutMix', 'streams.weak.group': 'clean'},
    ),
    'ael_deeplabv3plus_r101_voc12-92': Setting(
        lr=1e-2,
        head=1,
        epochs=80,
        labeled=16,  # *
        stride=8,  # *
        ohem=100000,  # *
        select=fixed(0.7),
        losses=ONE,
        teacher=0.99,
        extra=AEL,
    ),
    'ael_deeplabv3plus_r101_cityscapes-u2pl-186': Setting(  # * but for lr and OHEM
        **{**SMALL_CITY, 'labeled': 8}, ohem=100000, select=fixed(0.7), losses=ONE, extra=AEL
    ),
    'u2pl_deeplabv3plus_r101_voc12-92': Setting(
        **SMALL_VOC, select=ENTROPY, losses=ONE, warm_up=1, extra=CONTRAST
    ),
    'weighting_unimatch_deeplabv3plus_r101_voc12-92': Setting(
        **VOC,
        labeled=8,
        stride=16,
        select=fixed(0.95),
        losses=dict(strong=0.2, perturbed=0.2),  # 0.4 (1/4 + 1/4) and 0.4 1/2
        views=2,
        extra=WEIGHTS,
    ),
    'weighting_u2pl_deeplabv3plus_r101_cityscapes-u2pl-186': Setting(
        **SMALL_CITY,
        select=ENTROPY,
        losses=dict(strong=0.4),
        warm_up=1,
        extra={**WEIGHTS, **CONTRAST},
    ),
}
STRIDES = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4), (12, 24, 36)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2), (6, 12, 18)),
}


def config_of(stem: str) -> Any:
    (path,) = CONFIGS.glob(f'*/{stem}.py')
    return load_config(str(path))


def lookup(node: Any, path: str) -> Any:
    for name in path.split('.'):
        node = node[name]
    return node


def learning_rates(cfg: Any) -> dict[str, set[float]]:
    """Learning rates that the built optimizer has, of the backbone and of everything else."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = checker.build_model(cfg)
        wrapper = build_optim_wrapper(model, ConfigDict(cfg.optim_wrapper))
    owners = {id(value): name for name, value in model.named_parameters()}
    rates: dict[str, set[float]] = dict(backbone=set(), heads=set())
    for group in wrapper.optimizer.param_groups:  # without mmengine's group of the defaults
        for parameter in group['params']:
            inside = '.backbone.' in f'.{owners[id(parameter)]}'
            rates['backbone' if inside else 'heads'].add(round(group['lr'], 10))
    assert isinstance(wrapper.optimizer, torch.optim.SGD)
    return rates


@pytest.mark.parametrize('stem', list(SETTINGS))
def test_a_config_has_the_papers_numbers(stem: str) -> None:
    want, cfg = SETTINGS[stem], config_of(stem)
    model, segmentor = cfg.model, cfg.model.segmentor
    # schedule
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert (optimizer.lr, optimizer.weight_decay) == (want.lr, want.decay)
    rates = learning_rates(cfg)
    assert rates == dict(backbone={want.lr}, heads={round(want.lr * want.head, 10)})
    (poly,) = cfg.param_scheduler
    assert (poly.type, poly.power, poly.by_epoch, poly.eta_min) == ('PolyLR', 0.9, False, 0.0)
    assert cfg.train_cfg.max_epochs == want.epochs
    assert cfg.train_dataloader.sampler.ratio == (1, 1)
    assert cfg.auto_scale_lr.base_batch_size == 2 * want.labeled
    assert 2 * want.labeled % cfg.train_dataloader.batch_size == 0
    # network
    strides, dilations, aspp = STRIDES[want.stride]
    if segmentor.backbone.type == 'ResNetV1c':
        assert (segmentor.backbone.strides, segmentor.backbone.dilations) == (strides, dilations)
    else:
        assert segmentor.backbone.output_stride == want.stride
    head = segmentor.decode_head
    assert (head.type, head.dilations, head.align_corners) == ('DeepLabV3PlusHead', aspp, True)
    sampler = head.get('sampler')
    found = sampler and (sampler.type, sampler.thresh, sampler.min_kept)
    assert found == (want.ohem and ('MeanOHEMPixelSampler', 0.7, want.ohem))
    # method
    assert model.refiners.select == want.select
    assert {name: loss.loss_weight for name, loss in model.losses.items()} == want.losses
    assert model.supervised_weight == want.supervised
    assert model.get('warmup_epochs', 0) == want.warm_up and not model.get('warmup_iters')
    if want.teacher is None:
        assert model.get('teacher') is None
    else:
        assert model.teacher == dict(type='EMATeacher', momentum=want.teacher)
        assert (EMATeacher().buffer_mode, EMATeacher().warm_up) == ('ema', True)
    unlabeled = cfg.train_dataloader.dataset.unlabeled
    assert unlabeled.strong.num_views == want.views
    for path, value in want.extra.items():
        assert lookup(model, path) == value, path
    boxes = unlabeled.get('detections')
    thresholds = dict(voc12=0.85, cityscapes=0.95)
    dataset = checker.NAME.fullmatch(stem)['dataset']
    wanted = thresholds[dataset] if stem.startswith('weighting') else None
    assert (boxes and boxes.score_thr) == wanted


def test_every_method_is_held_against_its_paper() -> None:
    methods = {checker.NAME.fullmatch(stem)['method'] for stem in SETTINGS}
    all_methods = {
        checker.NAME.fullmatch(path.stem)['method'] for path in checker.benchmark_configs()
    }
    # The other two frameworks of weighting change no number of theirs but the loss weight.
    assert all_methods - methods == {'supervised', 'weighting_augseg', 'weighting_ael'}


def test_supervised_rows_have_the_batch_and_rates_of_the_semi_supervised_ones() -> None:
    for stem, lr, head in (
        ('supervised_deeplabv3plus_r101_voc12-92', 1e-3, 10),
        ('supervised_deeplabv3plus_r101_cityscapes-186', 5e-3, 1),
    ):
        cfg = config_of(stem)
        assert learning_rates(cfg) == dict(backbone={lr}, heads={round(lr * head, 10)})
        assert cfg.auto_scale_lr.base_batch_size == 8 == 4 * cfg.train_dataloader.batch_size


def test_augmentation_is_the_papers() -> None:
    cfg = config_of('unimatch_deeplabv3plus_r101_voc12-92')
    data = cfg.train_dataloader.dataset
    resize, _, flip = list_transforms(data.geometry, '')
    assert (resize.type, resize.ratio_range) == ('RandomRelativeResize', (0.5, 2.0))
    assert (flip.type, flip.prob) == ('RandomFlip', 0.5)
    jitter, gray, blur = list_transforms(data.unlabeled.strong.transforms, '')
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (
        0.5,
        0.5,
        0.5,
        0.25,
    )
    assert (gray.prob, blur.prob, blur.sigma) == (0.2, 0.5, (0.1, 2.0))
    mixer = cfg.model.mixer
    assert (mixer.prob, mixer.area) == (0.5, (0.02, 0.4)) and mixer.aspect == (0.3, 1 / 0.3)
    assert cfg.model.streams.perturbed.perturbation.prob == 0.5
    augseg = config_of('augseg_deeplabv3plus_r101_voc12-92')
    views = augseg.train_dataloader.dataset.unlabeled.strong
    (intensity,) = list_transforms(views.transforms, '')
    assert intensity.type == 'RandomIntensityAugment'
