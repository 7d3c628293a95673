"""Every way to test a checkpoint gives the same metrics and the same label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import mmcv
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import MMSegInferencer
from mmseg.structures import SegDataSample
from tool_runs import TOOLS, UNIMATCH, load_checkpoint, read_metrics, with_hooks, write_config

import mmseg_semi  # noqa: F401  (registers the components, allows mmengine's checkpoints)
from mmseg_semi.utils.drawing import colors, paint

TEST = TOOLS / 'test.py'
EXTRACT = TOOLS / 'model_converters' / 'extract_segmentor.py'
MMSEG_TEST = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'test.py'
WHO = ('student', 'teacher')
BAD_KEYS = ('unexpected key', 'missing keys', 'size mismatch')
Maps = dict[str, np.ndarray]


def read_maps(folder: Path) -> Maps:
    """Label maps of a folder by file name."""
    return {path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in folder.glob('*.png')}


def assert_same_maps(first: Maps, second: Maps) -> None:
    assert first.keys() == second.keys() and len(first) == 5
    for name, label in first.items():
        np.testing.assert_array_equal(label, second[name], err_msg=name)


def differing_pixels(first: Maps, second: Maps) -> int:
    return sum(int((label != second[name]).sum()) for name, label in first.items())


class Outcome:
    """Metrics, label maps and output of a test run."""

    def __init__(self, folder: Path, output: str) -> None:
        self.metrics, self.output = read_metrics(folder / 'work'), output
        self.maps = read_maps(folder / 'maps')
        self.folder = folder


@pytest.fixture(scope='module')
def test_with(server, tmp_path_factory):
    """Function that tests with our tools/test.py."""

    def test_with(config: Path, checkpoint: Path, *args: Any) -> Outcome:
        folder = tmp_path_factory.mktemp('tested')
        out = ['--work-dir', folder / 'work', '--out', folder / 'maps']
        return Outcome(folder, server.run(TEST, config, checkpoint, *out, *args).output)

    return test_with


@pytest.fixture(scope='module')
def test_plain(plain_server, tmp_path_factory):
    """Function that tests with mmseg's own tool, mmdet (and mmseg_semi unless allowed) missing."""
    if not MMSEG_TEST.is_file():
        pytest.fail(f'the installed mmseg has no {MMSEG_TEST}')

    def test_plain(config: Path, checkpoint: Path, *args: Any, allow: Any = ()) -> Outcome:
        folder = tmp_path_factory.mktemp('tested')
        out = ['--work-dir', folder / 'work', '--out', folder / 'maps']
        done = plain_server.run(MMSEG_TEST, config, checkpoint, *out, *args, unblock=allow)
        return Outcome(folder, done.output)

    return test_plain


@pytest.fixture(scope='module')
def ours(test_with, ema_run):
    """The student's and the teacher's test by our tool; pictures for the student."""
    args = (ema_run.config, ema_run.checkpoint, '--predict-with')
    return dict(
        student=test_with(*args, 'student', '--show-dir', ema_run.work_dir / 'shown'),
        teacher=test_with(*args, 'teacher'),
    )


def test_our_tool_writes_metrics_maps_and_pictures(ours, ema_run, digit_root):
    student, teacher = ours['student'], ours['teacher']
    assert student.metrics.keys() >= {'mIoU', 'aAcc', 'mAcc'}
    assert all(
        label.shape == (64, 64) and label.dtype == np.uint8 for label in student.maps.values()
    )
    for tested in ours.values():  # predictions in which a difference would show
        assert len(np.unique(np.stack(list(tested.maps.values())))) >= 3
    assert differing_pixels(student.maps, teacher.maps) > 0
    assert not any(text in student.output + teacher.output for text in BAD_KEYS)
    # The metric is that of the maps.
    hits = total = 0
    for name, label in student.maps.items():
        truth = cv2.imread(str(digit_root / f'annotations/test/{name}.png'), cv2.IMREAD_UNCHANGED)
        hits, total = hits + int((truth == label).sum()), total + truth.size
    assert student.metrics['aAcc'] == pytest.approx(100 * hits / total, abs=0.006)
    shown = {path.name: path for path in (ema_run.work_dir / 'shown').rglob('*.png')}
    assert len(shown) == 5, 'not one picture for each image'
    table = colors(Config.fromfile(ema_run.config).test_dataloader.dataset.metainfo)
    for name, label in student.maps.items():  # image, truth and prediction, three times as large
        picture = cv2.imread(str(shown[f'{name}.png']))[..., ::-1]
        panels = [picture[30:222:3, left : left + 192 : 3] for left in (8, 208, 408)]
        truth = cv2.imread(str(digit_root / f'annotations/test/{name}.png'), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(digit_root / f'images/test/{name}.png'))[..., ::-1]
        wanted = (image, paint(truth, table), paint(label, table))
        assert all((one == other).all() for one, other in zip(panels, wanted, strict=True))


def test_mmsegs_own_tool_gives_the_same(test_plain, ours, ema_run):
    theirs = test_plain(ema_run.config, ema_run.checkpoint, allow=['mmseg_semi'])
    assert theirs.metrics == ours['student'].metrics
    assert_same_maps(theirs.maps, ours['student'].maps)


@pytest.mark.parametrize('who', WHO)
def test_inferencer_gives_the_same_maps(who, ours, ema_run, digit_root, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(ema_run.config)!r}\nmodel = dict(test_cfg=dict(predict_with={who!r}))\n'
    )
    inferencer = MMSegInferencer(str(config), str(ema_run.checkpoint), device='cpu')
    files = sorted((digit_root / 'images/test').glob('*.png'))
    results = inferencer([str(file) for file in files], batch_size=2)['predictions']
    maps = {file.stem: label.astype(np.uint8) for file, label in zip(files, results)}
    assert_same_maps(maps, ours[who].maps)


def test_both_in_one_run(test_with, ours, ema_run, tmp_path):
    config = tmp_path / 'both.py'
    config.write_text(
        f'_base_ = {str(ema_run.config)!r}\n'
        "model = dict(test_cfg=dict(predict_with='both'))\n"
        "test_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']),\n"
        "    dict(type='TeacherIoUMetric', iou_metrics=['mIoU'])]\n"
    )
    both = test_with(config, ema_run.checkpoint)
    student, teacher = ours['student'], ours['teacher']
    assert both.metrics == {
        **student.metrics,
        **{f'teacher/{name}': value for name, value in teacher.metrics.items()},
    }
    assert_same_maps(both.maps, student.maps)
    assert_same_maps(read_maps(both.folder / 'maps' / 'teacher'), teacher.maps)


@pytest.mark.parametrize('who', WHO)
def test_extracted_segmentor_needs_no_mmseg_semi(who, server, test_plain, ours, ema_run, tmp_path):
    out = tmp_path / f'{who}.pth'
    server.run(EXTRACT, ema_run.checkpoint, '--out', out, '--which', who)
    # Tensors and plain values only: the loader needs no exception for it.
    plain = torch.load(out, weights_only=True)
    prefix = dict(student='segmentor.', teacher='teacher.')[who]
    trained = load_checkpoint(ema_run.checkpoint)['state_dict']
    assert plain['state_dict'].keys() == {
        key[len(prefix) :] for key in trained if key.startswith(prefix)
    }
    text = out.with_suffix('.py').read_text()
    assert 'mmseg_semi' not in text and 'Semi' not in text
    theirs = test_plain(out.with_suffix('.py'), out)
    assert theirs.metrics == ours[who].metrics
    assert_same_maps(theirs.maps, ours[who].maps)
    assert not any(text in theirs.output for text in BAD_KEYS)


def test_extracting_a_missing_teacher_is_refused(server, unimatch_run, tmp_path):
    args = (unimatch_run.checkpoint, '--out', tmp_path / 'out.pth', '--which', 'teacher')
    done = server.run(EXTRACT, *args, code=1)
    assert 'without a teacher' in done.output
    assert not list(tmp_path.iterdir())


def test_tta_is_the_mean_over_the_scales(test_with, ours, ema_run, digit_root):
    """Compared with softmax scores of three resized images, added up here."""
    tta = test_with(ema_run.config, ema_run.checkpoint, '--tta')
    assert differing_pixels(tta.maps, ours['student'].maps) > 0
    model = MMSegInferencer(str(ema_run.config), str(ema_run.checkpoint), device='cpu').model
    for name, label in tta.maps.items():
        image = cv2.imread(str(digit_root / f'images/test/{name}.png'))
        score = torch.zeros(6, 64, 64)
        for ratio in (0.75, 1.0, 1.25):
            resized = mmcv.imrescale(image, ratio)
            size = resized.shape[:2]
            meta = dict(ori_shape=(64, 64), img_shape=size, pad_shape=size, padding_size=[0] * 4)
            pixels = torch.from_numpy(resized).permute(2, 0, 1)
            with torch.no_grad():
                (result,) = model.test_step(
                    dict(inputs=[pixels], data_samples=[SegDataSample(metainfo=meta)])
                )
            score += result.seg_logits.data.softmax(0)
        np.testing.assert_array_equal(score.argmax(0).numpy(), label, err_msg=name)


def test_missing_and_truncated_checkpoints_are_refused(server, ema_run, tmp_path):
    missing = server.run(TEST, ema_run.config, tmp_path / 'no.pth', code=1)
    assert f'{tmp_path / "no.pth"}: the file does not exist' in missing.output
    half = tmp_path / 'half.pth'
    half.write_bytes(ema_run.checkpoint.read_bytes()[:-2000])
    cut = server.run(TEST, ema_run.config, half, code=1)
    assert f'{half}: the file is cut short' in cut.output


def test_a_stalled_drive_ends_a_test(server, unimatch_run, digit_root, tmp_path):
    loader = dict(num_workers=1, timeout=1, worker_init_fn=dict(type='slow_worker'))
    changes = with_hooks(dict(test_dataloader=loader))
    config = write_config(tmp_path / 'c.py', UNIMATCH, digit_root, **changes)
    work = ('--work-dir', tmp_path)
    done = server.run(TEST, config, unimatch_run.checkpoint, *work, code=1)
    assert 'error: test_dataloader: no batch came within 1 s' in done.output
    assert 'test_dataloader.timeout' in done.output and 'Traceback' not in done.output
