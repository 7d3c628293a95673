"""Sliding windows: their places by hand, their average against a slow reference."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors.seg_tta import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from tool_runs import TOOLS, load_config, read_metrics

from mmseg_semi.models.segmentors.sliding_encoder_decoder import window_spans

from ..conftest import NORM, SEGMENTOR

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
PAPER = dict(window_average='prob', window_border='cut')
REFINE = dict(context=dict(type='NeighborhoodRefiner'))
# Looks at a pixel's surroundings, at full resolution: what a window cuts off shows.
BACKBONE = dict(
    type='ResNet',
    depth=18,
    in_channels=3,
    stem_channels=4,
    base_channels=4,
    num_stages=1,
    strides=(1,),
    dilations=(1,),
    out_indices=(0,),
    norm_cfg=NORM,
)


def config(kind='SlidingEncoderDecoder', crop=(12, 10), stride=(8, 6), **test_cfg):
    head = dict(SEGMENTOR['decode_head'], in_index=0)
    return dict(
        SEGMENTOR,
        type=kind,
        backbone=deepcopy(BACKBONE),
        decode_head=head,
        test_cfg=dict(mode='slide', crop_size=crop, stride=stride, **test_cfg),
    )


def segmentor(seed=0, **changes):
    torch.manual_seed(seed)
    model = MODELS.build(ConfigDict(config(**changes))).eval()
    model.decode_head.conv_seg.weight.data.mul_(100)
    return model


def pictures(size=(20, 23), batch=2, seed=0):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def metas(images):
    size = tuple(images.shape[2:])
    return [dict(ori_shape=size, img_shape=size, pad_shape=size) for _ in images]


def samples_of(images):
    return [SegDataSample(metainfo=meta) for meta in metas(images)]


@torch.no_grad()
def mean_probability(model, images, spans):
    """Each pixel's mean softmax over the windows that hold it."""
    rows, columns = spans
    found = torch.zeros(len(images), 3, *images.shape[2:], dtype=torch.float64)
    count = torch.zeros(images.shape[2:], dtype=torch.float64)
    for top, bottom in rows:
        for left, right in columns:
            part = images[:, :, top:bottom, left:right]
            prob = model.encode_decode(part, metas(part)).double().softmax(1)
            for y in range(top, bottom):
                for x in range(left, right):
                    found[:, :, y, x] += prob[:, :, y - top, x - left]
                    count[y, x] += 1
    return found / count


CUT = ([(0, 12), (8, 20), (16, 20)], [(0, 10), (6, 16), (12, 22), (18, 23)])


@pytest.mark.parametrize(
    'size, window, stride, border, spans',
    [
        (20, 12, 8, 'cut', CUT[0]),
        (20, 12, 8, 'shift', [(0, 12), (8, 20)]),
        (23, 10, 6, 'cut', CUT[1]),
        (23, 10, 6, 'shift', [(0, 10), (6, 16), (12, 22), (13, 23)]),
        (9, 12, 8, 'cut', [(0, 9), (8, 9)]),
        (9, 12, 8, 'shift', [(0, 9)]),
        (8, 12, 8, 'cut', [(0, 8)]),
        # Cityscapes with crops of 801: three rows would be 1068 and more, beyond the image.
        (1024, 801, 534, 'cut', [(0, 801), (534, 1024)]),
        (2048, 801, 534, 'cut', [(0, 801), (534, 1335), (1068, 1869), (1602, 2048)]),
        (2048, 801, 534, 'shift', [(0, 801), (534, 1335), (1068, 1869), (1247, 2048)]),
    ],
)
def test_where_windows_lie(size, window, stride, border, spans):
    assert window_spans(size, window, stride, border) == spans


@pytest.mark.parametrize('size', [(20, 23), (7, 9), (12, 10), (12, 40)])
def test_without_the_keys_it_is_mmsegs_segmentor(size):
    ours, theirs = segmentor(), segmentor(kind='EncoderDecoder')
    theirs.load_state_dict(ours.state_dict())
    images = pictures(size)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.inference(images, metas(images)), theirs.inference(images, metas(images))
        )


@pytest.mark.parametrize('batch', [1, 3])
@torch.no_grad()
def test_papers_windows_sum_probabilities_and_end_at_the_edge(batch):
    model, images = segmentor(**PAPER), pictures(batch=batch)
    kept = metas(images)
    found = model.inference(images, kept)
    wanted = mean_probability(model, images, CUT)
    torch.testing.assert_close(found.exp().double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.softmax(1).double(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.argmax(1), wanted.argmax(1))
    assert kept == metas(images), 'the meta data are left alone'
    # The two averages and the two borders each give something else, also in the labels.
    others = [
        segmentor(window_average=average, window_border=border).inference(images, metas(images))
        for average, border in (('logit', 'cut'), ('prob', 'shift'), ('logit', 'shift'))
    ]
    for other in others:
        assert not torch.allclose(other.softmax(1), found.softmax(1), atol=1e-3)


@torch.no_grad()
def test_images_smaller_than_the_window():
    model, images = segmentor(**PAPER), pictures((9, 5))
    found = model.inference(images, metas(images)).exp().double()
    # A second row of windows starts at 8 and is one pixel high.
    wanted = mean_probability(model, images, ([(0, 9), (8, 9)], [(0, 5)]))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_certain_predictions_stay_finite():
    model, images = segmentor(**PAPER), pictures()
    model.decode_head.conv_seg.weight.mul_(1e4)
    found = model.inference(images, metas(images))
    assert found.isfinite().all() and found.min() < -80
    torch.testing.assert_close(found.softmax(1).sum(1), torch.ones(2, 20, 23))


@torch.no_grad()
def test_half_precision_is_averaged_in_float32():
    model, images = segmentor(**PAPER), pictures()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = model.inference(images, metas(images))
        wanted = mean_probability(model, images, CUT)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().double(), wanted, rtol=1e-5, atol=1e-6)


def test_one_resolution_keeps_the_logits_and_another_resizes_them():
    model, images = segmentor(**PAPER), pictures()
    with torch.no_grad():
        raw = model.inference(images, metas(images))
        same = model.predict(images, samples_of(images))
        larger = [SegDataSample(metainfo=dict(m, ori_shape=(40, 46))) for m in metas(images)]
        larger = model.predict(images, larger)
    for i, result in enumerate(same):
        assert torch.equal(result.seg_logits.data, raw[i])
        assert torch.equal(result.pred_sem_seg.data[0], raw[i].argmax(0))
        resized = torch.nn.functional.interpolate(raw[i : i + 1], (40, 46), mode='bilinear')[0]
        torch.testing.assert_close(larger[i].seg_logits.data, resized)


def test_test_time_augmentation_averages_the_probabilities():
    model, images = segmentor(**PAPER), pictures(batch=1)
    flipped = samples_of(images)
    flipped[0].set_metainfo(dict(flip=True, flip_direction='horizontal'))
    for sample in (plain := samples_of(images)):
        sample.set_metainfo(dict(img_path='a.png'))
    with torch.no_grad():
        both = [model.predict(images, plain)[0], model.predict(images.flip(3), flipped)[0]]
        spans = mean_probability(model, images, CUT)
        other = mean_probability(model, images.flip(3), CUT).flip(3)
    merged = SegTTAModel.merge_preds(_Module(model), [both])[0].pred_sem_seg.data
    assert torch.equal(merged, (spans + other).argmax(1))


class _Module:
    def __init__(self, module):
        self.module = module


# -------------------------------------------------------------------------- in a SemiSegmentor
@pytest.fixture
def semi(build):
    """A SemiSegmentor around the paper's windows, its teacher another network."""

    def make(predict_with, refine=False):
        torch.manual_seed(0)
        model = build(
            segmentor=config(**PAPER),
            refiners=REFINE,
            teacher=dict(type='EMATeacher'),
            test_cfg=dict(predict_with=predict_with, refine=refine),
        ).eval()
        for seed, network in enumerate((model.segmentor, model.teacher.network)):
            network.load_state_dict(segmentor(seed, **PAPER).state_dict())
        return model

    return make


@torch.no_grad()
@pytest.mark.parametrize('refine', [False, True])
def test_student_teacher_and_both_predict_in_windows(semi, refine):
    images, found = pictures(), {}
    for who in ('student', 'teacher', 'both'):
        found[who] = semi(who, refine).predict(images, samples_of(images))
    model = semi('student')
    refiner = model.refiners['context']
    for seed, who in enumerate(('student', 'teacher')):
        prob = mean_probability(segmentor(seed, **PAPER), images, CUT).float()
        label = (refiner.refine(prob) if refine else prob).argmax(1)
        assert refine == (not torch.equal(label, prob.argmax(1))), 'refinement must show'
        key = 'pred_sem_seg' if who == 'student' else 'teacher_pred_sem_seg'
        for i in range(2):
            alone, both = found[who][i], found['both'][i]
            assert torch.equal(alone.pred_sem_seg.data[0], label[i]), who
            assert torch.equal(both.get(key).data[0], label[i]), who
            torch.testing.assert_close(alone.seg_logits.data.exp(), prob[i], rtol=1e-5, atol=1e-6)


def test_mmsegs_segmentor_does_not_ignore_the_keys_in_silence(build):
    message = "EncoderDecoder' does not know window_average, window_border: use .*'SlidingEncoder"
    with pytest.raises(ValueError, match=f'model.segmentor.test_cfg: .*{message}'):
        build(segmentor=config('EncoderDecoder', **PAPER))
    with pytest.raises(ValueError, match='the inference mode is in model.segmentor.test_cfg'):
        build(segmentor=config(), test_cfg=PAPER)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(window_average='mean'), "test_cfg.window_average .*'logit', 'prob'.* got 'mean'"),
        (dict(window_border='pad'), "test_cfg.window_border .*'shift', 'cut'.* got 'pad'"),
        (dict(mode='whole', window_border='cut'), "mode='whole' has no windows, but window_border"),
        (dict(stride=(13, 6)), r'stride=\(13, 6\) is larger than crop_size=\(12, 10\)'),
        (dict(stride=6), r'test_cfg.stride must be \(height, width\) .* got 6'),
        (dict(crop_size=None), r'test_cfg.crop_size must be \(height, width\) .* got None'),
        (dict(stride=(0, 6)), r'test_cfg.stride .* got \(0, 6\)'),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    cfg = config()
    cfg['test_cfg'].update(changes)
    with pytest.raises(ValueError, match=message):
        MODELS.build(ConfigDict(cfg))


def test_a_sigmoid_output_has_no_softmax_to_average():
    cfg = config(**PAPER)
    cfg['decode_head'].update(num_classes=2, out_channels=1, threshold=0.3)
    with pytest.raises(ValueError, match=r'out_channels=1 \(sigmoid\).*use window_average'):
        MODELS.build(ConfigDict(cfg))
    cfg['test_cfg']['window_average'] = 'logit'
    assert MODELS.build(ConfigDict(cfg)).window_border == 'cut'


# ------------------------------------------------------------------------------ through the tools
WINDOWS = """
_base_ = {base!r}
model = dict(segmentor=dict(type='SlidingEncoderDecoder', test_cfg=dict(
    mode='slide', crop_size=(48, 48), stride=(32, 32), window_average='prob', window_border='cut')))
"""


@pytest.fixture(scope='module')
def tested(server, plain_server, ema_run, tmp_path_factory):
    """The same checkpoint by our tool, by mmseg's, and extracted by mmseg's."""
    folder = tmp_path_factory.mktemp('windows')
    theirs = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'test.py'
    config = folder / 'windows.py'
    config.write_text(WINDOWS.format(base=str(ema_run.config)))
    extract = TOOLS / 'model_converters' / 'extract_segmentor.py'
    plain = folder / 'plain.pth'
    server.run(extract, ema_run.checkpoint, '--config', config, '--out', plain)

    def test(name, host, tool, config, checkpoint, **allow):
        work, maps = folder / name / 'work', folder / name / 'maps'
        host.run(tool, config, checkpoint, '--work-dir', work, '--out', maps, **allow)
        labels = {path.stem: cv2.imread(str(path), -1) for path in maps.glob('*.png')}
        return read_metrics(work), labels

    allow = dict(unblock=['mmseg_semi'])
    return dict(
        whole=test('whole', server, TOOLS / 'test.py', ema_run.config, ema_run.checkpoint),
        ours=test('ours', server, TOOLS / 'test.py', config, ema_run.checkpoint),
        theirs=test('theirs', plain_server, theirs, config, ema_run.checkpoint, **allow),
        plain=test('plain', plain_server, theirs, plain.with_suffix('.py'), plain, **allow),
        config=load_config(plain.with_suffix('.py')),
    )


def test_our_tool_mmsegs_tool_and_the_extracted_model_agree(tested):
    metrics, labels = tested['ours']
    assert len(labels) == 5 and len(np.unique(np.stack(list(labels.values())))) >= 3
    for other in ('theirs', 'plain'):
        assert tested[other][0] == metrics
        assert all((tested[other][1][name] == label).all() for name, label in labels.items())
    assert any((tested['whole'][1][name] != label).any() for name, label in labels.items())


def test_the_extracted_config_keeps_the_windows_and_says_what_it_needs(tested):
    config = tested['config']
    assert config.model.type == 'SlidingEncoderDecoder'
    assert config.custom_imports.imports == ['mmseg_semi']
    assert config.model.test_cfg.window_average == 'prob'
