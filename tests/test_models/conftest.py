from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_semi  # noqa: F401
from mmseg_semi.structures import PseudoLabel, SegOutputs

from .corrmatch import FIXED, HARD, head_cfg, sharpen
from .helpers import hooked, integers
from .weighting_parts import CHANNELS, REFINERS, WEIGHT

NORM = dict(type='BN', requires_grad=True)
SEGMENTOR = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True, size=(32, 32)
    ),
    backbone=dict(
        type='UNet',
        base_channels=4,
        num_stages=3,
        strides=(2, 1, 1),
        enc_num_convs=(1, 1, 1),
        dec_num_convs=(1, 1),
        downsamples=(True, True),
        enc_dilations=(1, 1, 1),
        dec_dilations=(1, 1),
        norm_cfg=NORM,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=4,
        in_index=2,
        channels=4,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=3,
        norm_cfg=NORM,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    test_cfg=dict(mode='whole'),
)
UNIMATCH = dict(
    type='SemiSegmentor',
    segmentor=SEGMENTOR,
    supervised_weight=0.5,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.6)),
    mixer=dict(type='CutMix', prob=0.0),
    streams=dict(
        perturbed=dict(features='weak', perturbation=dict(type='FeatureDropout', prob=0.0))
    ),
    losses=dict(
        strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=0.25),
        perturbed=dict(type='PseudoLabelCrossEntropy', stream='perturbed', loss_weight=0.25),
    ),
)
AEL_HEADS = dict(class_confidence=dict(type='ClassConfidence'))
AEL_LOSS = dict(
    type='PseudoLabelCrossEntropy',
    equalize='class_confidence',
    gamma=2.0,
    denominator='weight',
)
AEL = dict(
    teacher=dict(type='EMATeacher'),
    streams=None,
    heads=AEL_HEADS,
    labeled_mixer=dict(type='CopyPaste', prob=1.0),
    mixer=dict(type='ClassAwareCutMix', min_component=0.01, min_share=0.01),
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.4)),
    losses=dict(strong=AEL_LOSS),
)


def segmentor(**head):
    """A small segmentor whose decode head has other arguments."""
    cfg = deepcopy(SEGMENTOR)
    cfg['decode_head'].update(head)
    return cfg


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture
def build():
    """Build a small UniMatch model with changes, its weights drawn from seed 0."""

    def make(**changes):
        torch.manual_seed(0)
        return MODELS.build(ConfigDict({**deepcopy(UNIMATCH), **changes}))

    return make


@pytest.fixture
def corrmatch(build):
    """Build a CorrMatch model: arguments of the head, and changes of the model."""

    def make(head=None, **changes):
        parts = dict(
            refiners=dict(select=FIXED),
            losses=HARD,
            heads=dict(correlation=head_cfg(**(head or {}))),
        )
        return hooked(sharpen(build(**{**parts, **changes})))

    return make


@pytest.fixture
def batch():
    """Make a collated batch of images of the given sizes (height, width)."""

    def make(labeled=((32, 32),) * 2, unlabeled=((32, 32),) * 2, views=2, seed=0):
        source = torch.Generator().manual_seed(seed)

        def image(size):
            return torch.randint(0, 256, (3, *size), generator=source, dtype=torch.uint8)

        def sample(size, **data):
            out = SegDataSample(
                metainfo=dict(img_path=f'{size}.png', img_shape=size, ori_shape=size)
            )
            for name, value in data.items():
                setattr(out, name, PixelData(data=value))
            return out

        truth = [torch.randint(0, 3, (1, *size), generator=source) for size in labeled]
        valid = [torch.ones(1, *size, dtype=torch.bool) for size in unlabeled]
        return dict(
            labeled=dict(
                inputs=[image(size) for size in labeled],
                data_samples=[sample(s, gt_sem_seg=t) for s, t in zip(labeled, truth)],
            ),
            unlabeled=dict(
                weak=[image(size) for size in unlabeled],
                strong=[[image(size) for size in unlabeled] for _ in range(views)],
                data_samples=[sample(s, valid=v) for s, v in zip(unlabeled, valid)],
            ),
        )

    return make


@pytest.fixture
def build_ael(build):
    """Build AEL with its hooks, without labeled mixer; keywords of the model."""

    def make(without=(), confidence=None, **changes):
        model = hooked(build(**{**AEL, 'labeled_mixer': None, **changes}), without)
        if confidence is not None:
            model.heads['class_confidence'].values.copy_(
                torch.tensor(confidence, dtype=torch.float64)
            )
        return model

    return make


class Loader:
    """Images to be loaded, and a teacher that finds a rectangle of a class in each of them.

    Attributes:
        asked: The images of each loading.
        seeds: Seeds that each image was loaded with.
    """

    RECTANGLES = {5: (2, 3, 12, 4, 15), 7: (0, 0, 0, 0, 0), 9: (1, 6, 14, 8, 20)}
    SIZES = {5: (32, 32), 7: (32, 32), 9: (20, 24)}

    def __init__(self, model, views=1):
        self.model, self.views, self.seeds, self.asked = model, views, {}, []
        self.label_images, model.teacher.label = model.teacher.label, self.ask_teacher
        model.partner_source = self

    def image(self, number, view):
        """The weak image (view 0) or a strong view (from 1), whose first pixel tells the number."""
        image = integers(256, 3, *self.SIZES[number], seed=100 * number + view).to(torch.uint8)
        image[:, 0, 0] = number
        return image

    def normalized(self, number, view, size=(32, 32)):
        image = self.image(number, view)
        out = torch.zeros(3, *size)  # the preprocessor pads with 0
        out[:, : image.shape[1], : image.shape[2]] = (image.flip(0).float() - 100) / 50
        return out

    def __call__(self, places, seeds):
        samples = []
        self.asked.append(list(places))
        for number, seed in zip(places, seeds):
            self.seeds.setdefault(number, []).append(seed)
            sample = SegDataSample(metainfo=dict(sample_index=number, sample_seed=seed))
            sample.valid = PixelData(data=torch.ones(1, *self.SIZES[number], dtype=torch.bool))
            samples.append(sample)
        strong = [[self.image(n, 1 + v) for n in places] for v in range(self.views)]
        return dict(weak=[self.image(n, 0) for n in places], strong=strong, data_samples=samples)

    def logits(self, number, size=(32, 32)):
        k, top, bottom, left, right = self.RECTANGLES[number]
        logits = torch.zeros(3, *size)
        logits[0] = 3.0
        logits[:, top:bottom, left:right] = 0
        logits[k, top:bottom, left:right] = 2.0
        logits[:, 31] = 0.1 * logits[:, 31]  # not sure enough there
        return logits

    def ask_teacher(self, images):
        """Label the images of the batch as ever, and the loaded ones after them by rectangles."""
        numbers = self.asked[-1] if self.asked else []
        batch = len(images) - len(numbers)
        for number, one in zip(numbers, images[batch:]):
            torch.testing.assert_close(one, self.normalized(number, 0))
        logits = [*self.label_images(images[:batch]).logits, *map(self.logits, numbers)]
        return SegOutputs([torch.stack(logits)], tuple(images.shape[-2:]), False)

    def label(self, number):
        """The pseudo-label of a loaded image, by hand."""
        prob = self.logits(number).softmax(0)
        valid = torch.zeros(32, 32, dtype=torch.bool)
        valid[: self.SIZES[number][0], : self.SIZES[number][1]] = True
        confidence, label = prob.max(0)
        selected = valid & (confidence >= 0.6)
        fields = [one[None] for one in (label, confidence, valid, selected)]
        return PseudoLabel(None, None, *fields)


@pytest.fixture
def loading(build_ael):
    """A model whose bank knows some images, and its loader."""

    def make(views=1, **changes):
        model = build_ael(confidence=[1.0, 0.0, 0.0], **changes)
        mixer = model.mixer
        mixer.set_bank_size(12, keep=False)
        mixer.bank[5, 2] = mixer.bank[7, 1] = mixer.bank[9, 1] = 1
        mixer.bank[0, 1] = 1  # an image of the batch, that contained class 1 once
        return model, Loader(model, views)

    return make


def shaken(model):
    """Weights with which predictions vary and are sometimes sure."""
    torch.manual_seed(1)
    with torch.no_grad():
        for network in filter(None, (model.segmentor, getattr(model.teacher, 'network', None))):
            head = network.decode_head
            head = head[-1] if isinstance(head, torch.nn.ModuleList) else head
            head.conv_seg.weight.copy_(torch.randn(head.conv_seg.weight.shape))
    return hooked(model).train()


@pytest.fixture
def weighting(build):
    """Build a weighting model: changes of its weight refiner, and of the model."""

    def make(weight=None, **changes):
        refiners = dict(REFINERS, weight=dict(WEIGHT, **(weight or {})))
        base = dict(segmentor=segmentor(channels=CHANNELS), refiners=refiners)
        return shaken(build(**{**base, **changes}))

    return make


@pytest.fixture
def boxed(batch):
    """Make a batch whose unlabeled images have random boxes of the three classes."""

    def make(seed=0, absent=(), **sizes):
        data = batch(seed=seed, **sizes)
        rng = np.random.default_rng(seed)
        for sample in data['unlabeled']['data_samples']:
            size = sample.valid.shape
            packed = np.zeros((1, *size), np.uint8)
            for number in (n for n in range(3) if n not in absent):
                for y, x in rng.integers(0, 28, (2, 2)):
                    packed[0, y : y + 20, x : x + 20] |= 1 << number
            sample.detections = PixelData(data=torch.from_numpy(packed))
        for sample in data['labeled']['data_samples']:
            for number in absent:
                truth = sample.gt_sem_seg.data
                truth[truth == number] = (number + 1) % 3
        return data

    return make
