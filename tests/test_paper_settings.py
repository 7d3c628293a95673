"""Settings of the papers' tables: those of the documents, and the constants of the methods.

The settings of a method on a data set (crop, learning rate, batch, ...) stand in docs/reproduce.md,
each with its source; the configs are held against that table. The constants of the methods are
typed out here, written from the papers' descriptions and not from the configs.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from equal_blocks import small_networks
from mmengine.config import ConfigDict
from mmengine.optim import PolyLR, build_optim_wrapper
from tool_runs import CONFIGS, REPO

from mmseg_semi.datasets.transforms.named_transforms import list_transforms
from mmseg_semi.models import EMATeacher
from mmseg_semi.utils.config import load_config
from mmseg_semi.zoo import check_configs as checker


@dataclass
class Setting:
    """The constants of a method on a data set.

    Attributes:
        losses: Weights of the losses.
        supervised: Weight of the supervised loss.
        extra: Other values by their place in the model.
    """

    losses: dict[str, Any]
    supervised: float = 1.0
    extra: dict[str, Any] = field(default_factory=dict)


ONE = dict(strong=1.0)
BOTH = dict(labeled=1.0, strong=1.0)
HALF = dict(strong=0.5)
REGULARIZATION = dict(strong=0.5, perturbed=0.5)  # 1/4 + 1/4 and 1/2, not halved
UNIMATCH = dict(strong=0.25, perturbed=0.25)  # 1/2 (1/4 + 1/4) and 1/2 1/2, the mean of two views
RANK = {
    'mixer.draw': 'rejection',
    'heads.rank.loss_weight': 0.1,
    'heads.rank.num_agents': 128,
    'heads.rank.top': 4,
}
CORR = {'heads.correlation.labeled_weight': 0.25, 'heads.correlation.unlabeled_weight': 0.125}
CORR.update({'refiners.regions.num_shapes': 128, 'refiners.regions.strategy': 'random'})
CORR.update({'refiners.regions.after_mixing': True, 'mixer.draw': 'rejection'})
CONTEXT = {'refiners.context.window': 3, 'refiners.context.neighbors': 1}
CONTEXT.update({'refiners.context.criterion': 'max', 'losses.strong.denominator': 'selected'})
# The passes of the student and the boxes of CutMix, of half the image.
JOINED = {'streams.strong.group': 'clean', 'mixer.area': (0.5, 0.5), 'mixer.draw': 'width'}
JOINED.update({'mixer.coin': 'batch', 'mixer.partner': 'next'})
CONTRAST = {'heads.contrast.loss_weight': 0.1, 'heads.contrast.channels': 256}
CONTRAST.update({'losses.strong.scale': 'inverse_share', 'heads.contrast.decay_by': 'epoch'})
CONTRAST.update({'heads.contrast.bank.size': 30000, 'heads.contrast.bank.first_size': 50000})
AEL = {'losses.strong.gamma': 2.0, 'heads.class_confidence.momentum': 0.999}
WEIGHTS = {'refiners.weight.k': 5, 'refiners.agreement.min_confidence': 0.95}

CLIP = {
    'heads.guidance.threshold': 0.9,
    'heads.guidance.peak': 0.1,
    'segmentor.decode_head.type': 'LanguageGuidedHead',
}
GUIDANCE = {'heads.guidance.size': 8, 'heads.guidance.most': 3}
REJECTION = {'mixer.draw': 'rejection'}  # the program's boxes
V2 = {
    **REJECTION,
    'mixer.partner': 'reversed',
    'streams.strong.perturbation.prob': 0.5,
    'streams.strong.perturbation.complementary': True,
    'streams.strong.perturbation.shared': True,
    'streams.strong.perturbation.untouched': 0.5,
    'teacher.momentum': 0.996,
}

SETTINGS = {
    'fixmatch_deeplabv3plus_r101_voc12-92': Setting(losses=HALF, supervised=0.5, extra=REJECTION),
    'fixmatch_deeplabv3plus_r101_cityscapes-186': Setting(losses=HALF, supervised=0.5),
    'unimatch_deeplabv3plus_r50_voc12-92': Setting(
        losses=UNIMATCH, supervised=0.5, extra=REJECTION
    ),
    'unimatch_deeplabv3plus_r101_voc12-cps-662_513x513': Setting(losses=UNIMATCH, supervised=0.5),
    'unimatch_deeplabv3plus_r101_cityscapes-186': Setting(
        losses=UNIMATCH,
        supervised=0.5,
    ),
    'unimatch_deeplabv3plus_xception65_coco-232': Setting(
        losses=UNIMATCH,
        supervised=0.5,
    ),
    'unimatch_v2_dinov2-s_voc12-92': Setting(losses=HALF, supervised=0.5, extra=V2),
    'unimatch_v2_dinov2-b_cityscapes-186': Setting(losses=HALF, supervised=0.5, extra=V2),
    'prevmatch_deeplabv3plus_r101_voc12-92': Setting(
        losses=UNIMATCH,
        supervised=0.5,
        extra={**REJECTION, **GUIDANCE, 'heads.guidance.threshold': 0.9},
    ),
    'prevmatch_deeplabv3plus_r50_cityscapes-186': Setting(
        losses=UNIMATCH,
        supervised=0.5,
        extra={
            **GUIDANCE,
            'refiners.select.threshold': 0.0,
            'heads.guidance.threshold': 0.0,
            'heads.guidance.by_mean_confidence': True,
        },
    ),
    'semivl_clip-b16_voc12-92': Setting(
        losses=UNIMATCH,
        supervised=0.5,
        extra={**REJECTION, **CLIP, 'refiners.select.threshold': 0.95},
    ),
    'semivl_clip-b16_cityscapes-186': Setting(
        losses=UNIMATCH,
        supervised=0.5,
        extra={
            **CLIP,
            'refiners.select.threshold': 0.0,
            'losses.strong.scale': 'mean_confidence',
            'losses.perturbed.scale': 'mean_confidence',
        },
    ),
    'weighting_semivl_clip-b16_cityscapes-186': Setting(
        losses=UNIMATCH,
        supervised=0.5,
        extra={**CLIP, **WEIGHTS, 'refiners.weight.tap': 'encoder'},
    ),
    'corrmatch_deeplabv3plus_r101_voc12-92': Setting(
        losses=dict(strong=0.125, perturbed=0.125, soft=0.125),
        supervised=0.25,
        extra={**CORR, 'refiners.select.momentum': 0.999},
    ),
    'corrmatch_deeplabv3plus_r101_cityscapes-186': Setting(
        losses=dict(strong=0.125, perturbed=0.125, soft=0.125),
        supervised=0.25,
        extra=CORR,
    ),
    'rankmatch_deeplabv3plus_r101_voc12-92': Setting(
        losses=REGULARIZATION,
        extra=RANK,
    ),
    'rankmatch_deeplabv3plus_r50_cityscapes-186': Setting(
        losses=REGULARIZATION,
        extra=RANK,
    ),
    'mean_teacher_deeplabv3plus_r101_voc12-92': Setting(losses=ONE),
    'cutmix_seg_deeplabv3plus_r101_cityscapes-u2pl-186': Setting(losses=ONE),
    's4mc_deeplabv3plus_r101_voc12-92': Setting(losses=ONE, extra={**CONTEXT, **JOINED}),
    's4mc_deeplabv3plus_r101_cityscapes-u2pl-186': Setting(losses=ONE, extra={**CONTEXT, **JOINED}),
    's4mc_fixmatch_deeplabv3plus_r101_voc12-92': Setting(losses=ONE, extra=CONTEXT),
    'augseg_deeplabv3plus_r101_voc12-92': Setting(
        losses=ONE,
        extra={'mixer.type': 'AdaptiveCutMix', 'streams.strong.group': 'joint'},
    ),
    'ael_deeplabv3plus_r101_voc12-92': Setting(
        losses=BOTH,
        extra={**AEL, 'labeled_mixer.num_classes': 1, 'mixer.min_share': 0.03},
    ),
    'ael_deeplabv3plus_r101_cityscapes-u2pl-186': Setting(
        losses=BOTH,
        extra={**AEL, 'labeled_mixer.num_classes': 3, 'mixer.min_share': 0.01},
    ),
    'u2pl_deeplabv3plus_r101_voc12-92': Setting(losses=ONE, extra={**CONTRAST, **JOINED}),
    'weighting_unimatch_deeplabv3plus_r101_voc12-92': Setting(
        losses=dict(strong=0.2, perturbed=0.2),  # 0.4 (1/4 + 1/4) and 0.4 1/2
        extra=WEIGHTS,
    ),
    'weighting_u2pl_deeplabv3plus_r101_cityscapes-u2pl-186': Setting(
        losses=ONE,
        extra={**WEIGHTS, **CONTRAST},
    ),
}
STRIDES = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4), (12, 24, 36)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2), (6, 12, 18)),
}
BASES = CONFIGS / '_base_' / 'benchmarks'
COLUMNS = (
    *('crop', 'output stride', 'images of an update', 'learning rate', 'heads', 'weight decay'),
    *('epochs', 'OHEM', 'auxiliary head', 'pixels', 'EMA', 'supervised epochs', 'strong views'),
    'predicts',
)
#: The paper, the released program, ours.
SOURCES = ('p', 'r', 'o')


def config_of(stem: str) -> Any:
    (path,) = CONFIGS.glob(f'*/{stem}.py')
    return load_config(str(path))


def lookup(node: Any, path: str) -> Any:
    for name in path.split('.'):
        node = node[name]
    return node


@pytest.fixture(autouse=True)
def few_equal_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates of a stage are those of each of its blocks."""
    small_networks(monkeypatch)


def learning_rates(cfg: Any) -> dict[str, set[float]]:
    """Learning rates that the built optimizer has, of the backbone and of everything else."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = checker.build_model(cfg)
        wrapper = build_optim_wrapper(model, ConfigDict(cfg.optim_wrapper))
    owners = {id(value): name for name, value in model.named_parameters()}
    rates: dict[str, set[float]] = dict(backbone=set(), heads=set())
    for group in wrapper.optimizer.param_groups:  # without mmengine's group of the defaults
        for parameter in (one for one in group['params'] if one.requires_grad):
            inside = '.backbone.' in f'.{owners[id(parameter)]}'
            rates['backbone' if inside else 'heads'].add(round(group['lr'], 10))
    return rates


# ---------------------------------------------------------------------------- the table of sources
def settings_of(cfg: Any) -> dict[str, str]:
    """What a config has, as the table in docs/reproduce.md writes it."""
    model, data, optimizer = cfg.model, cfg.train_dataloader.dataset, cfg.optim_wrapper.optimizer
    head, segmentor = model.segmentor.decode_head, model.segmentor
    images, batch = cfg.auto_scale_lr.base_batch_size, cfg.train_dataloader.batch_size
    assert cfg.train_dataloader.sampler.ratio == (1, 1) and images % batch == 0
    rates = learning_rates(cfg)
    (rate,), (heads,) = rates['backbone'], rates['heads']
    assert optimizer.lr == (heads if segmentor.backbone.type == 'CLIPVisionTransformer' else rate)
    return dict(
        zip(
            COLUMNS,
            (
                str(data.geometry.crop.crop_size[0]),
                stride_of(segmentor),
                f'{images // 2} + {images // 2} on {images // batch}',
                f'{rate:g}',
                f'x{heads / rate:g}',
                f'{optimizer.weight_decay:g}',
                str(cfg.train_cfg.max_epochs),
                ohem_of(head),
                auxiliary_of(segmentor, head),
                pixels_of(model.refiners.select),
                f'{model.teacher.momentum:g}' if model.get('teacher') else 'no',
                str(model.get('warmup_epochs', 0)),
                views_of(data),
                (model.get('test_cfg') or {}).get('predict_with', 'student'),
            ),
        )
    )


def stride_of(segmentor: Any) -> str:
    head, backbone = segmentor.decode_head, segmentor.backbone
    if backbone.type == 'MixVisionTransformer':
        return '32'
    if backbone.type == 'CLIPVisionTransformer':
        assert (head.type, head.align_corners) == ('LanguageGuidedHead', False)
        return '16'
    if backbone.type == 'DINOv2':
        assert (head.type, head.align_corners) == ('UniMatchDPTHead', True)
        return '14'
    (stride,) = [stride for stride, (*_, aspp) in STRIDES.items() if head.dilations == aspp]
    assert (head.type, head.align_corners) == ('DeepLabV3PlusHead', True)
    if backbone.type == 'ResNetV1c':
        assert (backbone.strides, backbone.dilations) == STRIDES[stride][:2]
    else:
        assert backbone.output_stride == stride
    return str(stride)


def ohem_of(head: Any) -> str:
    sampler = head.get('sampler')
    if sampler:
        assert (sampler.type, sampler.thresh) == ('MeanOHEMPixelSampler', 0.7)
    return str(sampler.min_kept) if sampler else 'no'


def auxiliary_of(segmentor: Any, head: Any) -> str:
    """Weight of the auxiliary head: third stage, 3x3 to 256 channels, OHEM of the main head."""
    auxiliary = segmentor.get('auxiliary_head')
    if not auxiliary:
        return 'no'
    assert (auxiliary.type, auxiliary.in_index, auxiliary.in_channels) == ('FCNHead', 2, 1024)
    assert (auxiliary.num_convs, auxiliary.channels, auxiliary.concat_input) == (1, 256, False)
    assert auxiliary.num_classes == head.num_classes and auxiliary.sampler == head.sampler
    return f'{auxiliary.loss_decode.loss_weight:g}'


def pixels_of(select: Any) -> str:
    if select.type == 'ConfidenceThreshold':
        return f'>= {select.threshold:g}' if select.threshold else 'all'
    if select.type == 'EMAThreshold':
        return f'>= EMA from {select.initial:g}'
    assert select.type == 'QuantileThreshold'
    return f'{select.score}, {select.alpha:g}'


def views_of(data: Any) -> str:
    """How many strong views, and what they and the resizing are."""
    strong = data.unlabeled.strong
    names = [one.type for one in list_transforms(strong.transforms, '')]
    geometry = data.geometry
    resize = geometry.resize.get('law', 'uniform'), geometry.resize.backend
    padded = geometry.crop.pad_color
    assert geometry.crop.type == 'RandomPaddedCrop'
    if not names:
        assert (*resize, padded) == ('halves', 'cv2', None)
        return f'{strong.num_views}, mixed alone'
    assert (*resize, padded) == ('uniform', 'pillow', (0, 0, 0))
    if names == ['RandomIntensityAugment']:
        return f'{strong.num_views}, intensity'
    assert names == ['RandomColorJitter', 'RandomGray', 'RandomGaussianBlur']
    return f'{strong.num_views}, photometry'


def documented() -> dict[str, dict[str, tuple[str, str]]]:
    """Value and source of each setting in docs/reproduce.md, by base and column."""
    text = (REPO / 'docs/reproduce.md').read_text()
    head = f'| base | {" | ".join(COLUMNS)} |'
    assert text.count(head) == 1
    lines = text[text.index(head) :].splitlines()[2:]
    rows: dict[str, dict[str, tuple[str, str]]] = {}
    for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith('|'))]:
        name, *cells = (cell.strip() for cell in line.strip('|').split('|'))
        assert len(cells) == len(COLUMNS) and name not in rows, name
        pairs = [cell.rpartition(' ')[::2] for cell in cells]
        rows[name.strip('`')] = dict(zip(COLUMNS, pairs))
    return rows


DOCUMENTED = documented()


def base_of(path: Path) -> str:
    return re.search(r"_base_/benchmarks/(\w+)\.py'", path.read_text())[1]


ONE_OF_EACH = {base_of(path): path for path in reversed(checker.benchmark_configs(CONFIGS))}


def test_every_base_is_documented_and_every_value_has_its_source() -> None:
    bases = {path.stem for path in BASES.glob('*.py') if not path.stem.startswith('supervised')}
    assert set(DOCUMENTED) == bases
    for name, row in DOCUMENTED.items():
        for column, (value, source) in row.items():
            assert value and source in SOURCES, (name, column)


@pytest.mark.parametrize('base', list(DOCUMENTED))
def test_a_base_has_the_documented_settings(base: str) -> None:
    cfg = load_config(str(ONE_OF_EACH[base]))
    assert settings_of(cfg) == {name: value for name, (value, _) in DOCUMENTED[base].items()}
    (poly,) = cfg.param_scheduler
    assert (poly.type, poly.power, poly.by_epoch, poly.eta_min) == ('PolyLR', 0.9, False, 0.0)
    optimizer = cfg.optim_wrapper.optimizer
    if any(name in base for name in ('segformer', 'dinov2', 'clip')):
        assert (optimizer.type, optimizer.betas) == ('AdamW', (0.9, 0.999))
    else:
        assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    if 'cityscapes' in base:
        test_cfg, crop = cfg.model.segmentor.test_cfg, int(DOCUMENTED[base]['crop'][0])
        assert (test_cfg.crop_size, test_cfg.stride) == ((crop,) * 2, (int(crop * 2 / 3),) * 2)


def test_what_papers_and_programs_fix_of_augseg_on_voc12() -> None:
    cfg = config_of('augseg_deeplabv3plus_r101_voc12-92')
    resize = cfg.train_dataloader.dataset.geometry.resize
    assert (resize.long_side, resize.ratio_range) == (500, (0.5, 2.0))
    cfg = config_of('augseg_deeplabv3plus_r101_cityscapes-u2pl-186')
    assert cfg.train_dataloader.dataset.geometry.resize.get('long_side') is None


def test_what_the_program_fixes_of_semivl() -> None:
    cfg = config_of('semivl_clip-b16_voc12-92')
    resize = cfg.train_dataloader.dataset.geometry.resize
    assert (resize.short_side, resize.ratio_range) == (512, (0.5, 2.0))
    fits = [one for one in cfg.test_dataloader.dataset.pipeline if one.type == 'Resize']
    assert [(one.scale, one.keep_ratio) for one in fits] == [((2048, 512), True)]
    test_cfg = cfg.model.segmentor.test_cfg
    assert (test_cfg.mode, test_cfg.crop_size, test_cfg.stride) == ('slide', (512,) * 2, (426,) * 2)
    model = checker.build_model(cfg)
    assert model.segmentor.backbone.out_indices == (0, 4)
    names = {id(value): name for name, value in model.segmentor.named_parameters()}
    norms = {
        f'{name}.weight'
        for name, module in model.segmentor.decode_head.named_modules(prefix='decode_head')
        if isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm))
    }
    wrapper = build_optim_wrapper(model, ConfigDict(cfg.optim_wrapper))
    decays = {
        names[id(value)]: group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for value in group['params']
        if value.requires_grad
    }
    assert len(norms) == 14 and all(decays[name] == 0 for name in norms)
    assert decays['decode_head.classifier.weight'] == 0.01
    assert decays['backbone.blocks.3.attn.qkv.weight'] == 0.01


def test_the_learning_rate_of_the_programs_is_one_step_late() -> None:
    """The example in docs/reproduce.md: lr0 twice, then lr0 (1 - (t - 1) / T)^0.9."""
    (snippet,) = re.findall(
        r'^param_scheduler = \[.*PolyLR.*\]$', (REPO / 'docs/reproduce.md').read_text(), re.M
    )
    total = 20
    scope: dict[str, Any] = dict(iterations=total)
    exec(snippet, scope)
    ((poly),) = scope['param_scheduler']
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    assert poly.pop('type') == 'PolyLR'
    scheduler = PolyLR(optimizer, **poly)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    wanted = [1e-3, *(1e-3 * (1 - (step - 1) / total) ** 0.9 for step in range(1, total))]
    assert rates == pytest.approx(wanted, rel=1e-12)


def test_the_detectors_start_from_imagenet_and_may_start_from_nothing(tmp_path: Path) -> None:
    pytest.importorskip('mmdet')
    readme = (CONFIGS / 'detection/README.md').read_text()
    (option,) = re.findall(r'`(model = dict\(backbone=dict\(init_cfg=None.*?)`', readme)
    for path in sorted((CONFIGS / 'detection').glob('*_voc12*.py')):
        backbone = load_config(str(path)).model.backbone
        assert backbone.init_cfg.checkpoint == 'torchvision://resnet50' and backbone.norm_eval
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {str(path)!r}\n{option}\n')
    backbone = load_config(str(child)).model.backbone
    assert backbone.init_cfg is None and backbone.depth == 50
    assert (backbone.frozen_stages, backbone.norm_eval) == (-1, False)


# ------------------------------------------------------------------------- constants of the methods
@pytest.mark.parametrize('stem', list(SETTINGS))
def test_a_config_has_the_papers_numbers(stem: str) -> None:
    want, cfg = SETTINGS[stem], config_of(stem)
    model = cfg.model
    assert {name: loss.loss_weight for name, loss in model.losses.items()} == want.losses
    assert model.supervised_weight == want.supervised
    if model.get('teacher') is not None:
        assert model.teacher.type == 'EMATeacher'
        assert (EMATeacher().buffer_mode, EMATeacher().warm_up) == ('ema', True)
    for path, value in want.extra.items():
        assert lookup(model, path) == value, path
    boxes = cfg.train_dataloader.dataset.unlabeled.get('detections')
    thresholds = dict(voc12=0.85, cityscapes=0.95)
    dataset = checker.NAME.fullmatch(stem)['dataset']
    wanted = thresholds[dataset] if stem.startswith('weighting') else None
    assert (boxes and boxes.score_thr) == wanted


def test_every_method_is_held_against_its_paper() -> None:
    methods = {checker.NAME.fullmatch(stem)['method'] for stem in SETTINGS}
    all_methods = {
        checker.NAME.fullmatch(path.stem)['method'] for path in checker.benchmark_configs()
    }
    # The other frameworks of weighting change no number of theirs but the loss weight.
    others = {'weighting_augseg', 'weighting_ael', 'weighting_mean_teacher'}
    assert all_methods - methods == {'supervised', *others}


def test_supervised_rows_have_the_batch_and_rates_of_the_semi_supervised_ones() -> None:
    for stem, lr, head in (
        ('supervised_deeplabv3plus_r101_voc12-92', 1e-3, 10),
        ('supervised_deeplabv3plus_r101_cityscapes-186', 5e-3, 1),
        ('supervised_deeplabv3plus_xception65_coco-232', 4e-3, 10),
    ):
        cfg = config_of(stem)
        assert learning_rates(cfg) == dict(backbone={lr}, heads={round(lr * head, 10)})
        assert cfg.auto_scale_lr.base_batch_size == 8 == 4 * cfg.train_dataloader.batch_size


@pytest.mark.parametrize(
    ('stem', 'images', 'iterations'),
    [
        ('voc12-92', 32, 5580),
        ('cityscapes-186', 16, 33660),
        ('coco-232', 32, 18740),
        ('ade20k-316', 16, 22500),
    ],
)
def test_supervised_rows_of_dinov2_are_those_of_its_program(stem, images, iterations) -> None:
    cfg = config_of(f'supervised_dinov2-b_{stem}')
    assert learning_rates(cfg) == dict(backbone={5e-6}, heads={2e-4})
    assert cfg.auto_scale_lr.base_batch_size == images == 4 * cfg.train_dataloader.batch_size
    assert cfg.train_cfg.max_iters == iterations


def test_every_weight_of_dinov2_decays() -> None:
    cfg = config_of('unimatch_v2_dinov2-s_voc12-92')
    rules = cfg.optim_wrapper.paramwise_cfg
    assert set(rules) == {'custom_keys'}
    assert all(set(one) == {'lr_mult'} for one in rules.custom_keys.values())


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
    assert (jitter.backend, blur.backend) == ('pillow', 'pillow')
    mixer = cfg.model.mixer
    assert (mixer.prob, mixer.area) == (0.5, (0.02, 0.4)) and mixer.aspect == (0.3, 1 / 0.3)
    assert cfg.model.streams.perturbed.perturbation.prob == 0.5
    augseg = config_of('augseg_deeplabv3plus_r101_voc12-92')
    views = augseg.train_dataloader.dataset.unlabeled.strong
    (intensity,) = list_transforms(views.transforms, '')
    assert intensity.type == 'RandomIntensityAugment'
