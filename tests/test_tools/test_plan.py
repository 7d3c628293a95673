"""The memory of a step: by hand on a few tensors, as a line over the pixels, and what fits."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from tool_runs import CONFIGS

from mmseg_semi.benchmarks import plan
from mmseg_semi.benchmarks import step_memory as memory
from mmseg_semi.models.heads import PreviousGuidance

UNIMATCH = str(CONFIGS / 'unimatch' / 'unimatch_deeplabv3plus_r50_voc12-92.py')
GIB = 2**30


def test_tensors_count_from_when_they_are_made_to_when_they_are_gone():
    with memory.LiveBytes() as counter:
        first = torch.zeros(1000)  # 4000 bytes
        second = first + 1
        assert counter.live == 8000
        del first
        assert counter.live == 4000
        view = second.view(10, 100)  # no storage of its own
        second.add_(1)
        third = second.double()
        assert (counter.live, counter.peak) == (12000, 12000)
        assert counter.moment == counter.calls == 5
        del second, third
        assert counter.live == 4000 and view.shape == (10, 100)
    assert counter.peak == 12000


def test_what_autograd_keeps_counts_and_what_was_there_does_not():
    weight = torch.ones(1000, requires_grad=True)
    counter = memory.LiveBytes()
    counter.ignore([weight.detach(), weight.detach()])
    with counter:
        hidden = (weight * 2).exp()  # the product is gone, exp keeps its result
        loss = hidden.sum()
        del hidden
        kept = counter.live
        loss.backward()
    assert kept == 4000 + 4
    assert counter.live == 4000 + 4, 'the gradient and the loss'
    assert 8000 < counter.peak <= 16100
    del weight
    assert counter.live >= 0


def test_a_state_is_counted_once():
    tensor = torch.zeros(10, dtype=torch.float64)
    assert memory.size_of([tensor, tensor[:5], torch.zeros(3)]) == 80 + 12


def test_the_peak_of_a_step_is_a_line_over_the_pixels(tmp_path):
    """A third crop, between the two, lies on the line; mixed precision takes less."""
    narrow = tmp_path / 'narrow.py'  # a quarter of the channels, for which a CPU takes seconds
    narrow.write_text(
        f"""_base_ = {UNIMATCH!r}
backbone = dict(base_channels=16, stem_channels=16)
decode_head = dict(in_channels=(64, 512), channels=64)
model = dict(segmentor=dict(backbone=backbone, decode_head=decode_head))
"""
    )
    cfg, crops = plan.read(str(narrow), {}), (65, 81, 97)
    peaks = [memory.peak_of_step(cfg, 2, crop, False, 'cpu').total for crop in crops]
    slope = (peaks[2] - peaks[0]) / (97**2 - 65**2)
    assert peaks[1] == pytest.approx(peaks[0] + slope * (81**2 - 65**2), rel=0.05)
    mixed = memory.peak_of_step(cfg, 2, 97, True, 'cpu')
    assert mixed.state < mixed.total < peaks[2]
    line = memory.measure('narrow', cfg, crops[::2], False)
    assert line.at(4, (81, 81)) == pytest.approx(peaks[1], rel=0.05)
    saved = plan.with_checkpoints(line, cfg, crops[::2], False)
    assert saved.at(4, (97, 97)) < 0.9 * peaks[2], 'what is computed again is not kept'
    assert plan.with_checkpoints(saved, cfg, crops[::2], False) is None, 'saves nothing more'


def test_the_state_of_a_step_is_weights_and_momenta():
    """ResNet-50 has 23.5 million weights, the decoder 16.6 million: each with its momentum."""
    peak = memory.peak_of_step(plan.read(UNIMATCH, {}), 2, 33, False, 'cpu')
    assert peak.weights == pytest.approx(4 * 40.4e6, rel=0.02)
    assert peak.optimizer == pytest.approx(4 * 40.4e6, rel=0.02)
    assert peak.state < peak.total and peak.others < 100, 'a threshold'


def lite(method, *changes):
    name = f'{method}_efficientnet-lite0_camvid-12.py'
    return plan.read(str(CONFIGS / method.split('_')[0] / name), dict(changes))


def test_all_strong_views_are_counted():
    """Each view of FixMatch is two more images through the network, which keep as much."""
    name = str(CONFIGS / 'fixmatch' / 'fixmatch_unet_custom.py')
    key = 'train_dataloader.dataset.unlabeled.strong.num_views'
    steps = [
        memory.peak_of_step(plan.read(name, {key: views}), 2, 128, False, 'cpu').step
        for views in (2, 3, 4)
    ]
    assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0], rel=0.01)
    assert steps[2] > 1.6 * steps[0]


def test_earlier_weights_are_part_of_the_state_where_they_take_a_gpus_memory(monkeypatch):
    labeled = []
    label = PreviousGuidance.label
    monkeypatch.setattr(
        PreviousGuidance, 'label', lambda *args: labeled.append(label(*args)) or labeled[-1]
    )
    kept = {'model.heads.guidance.size': 3}
    name = str(CONFIGS / 'prevmatch/prevmatch_unet_digit-scenes-60.py')
    found = []
    for on_cpu in (True, False):
        cfg = plan.read(name, {**kept, 'model.heads.guidance.on_cpu': on_cpu})
        found.append(memory.peak_of_step(cfg, 2, 64, False, 'cpu'))
    # One network that they are put into, and three sets of weights.
    assert [one.others / one.weights for one in found] == pytest.approx([1, 4], rel=0.01)
    assert len(labeled) == 2  # in each step that is counted they label


def test_clip_that_guides_is_part_of_the_state_and_no_file_is_needed():
    tiny = {
        'backbone': dict(channels=16, heads=2, embed_dim=8),
        'decode_head': dict(in_channels=(16, 16, 8), channels=16, skip_channels=(4, 4)),
    }
    changes = {
        f'model.segmentor.{part}.{key}': value
        for part, given in tiny.items()
        for key, value in given.items()
    }
    cfg = plan.read(str(CONFIGS / 'semivl/semivl_clip-b16_voc12-92.py'), changes)
    peak = memory.peak_of_step(cfg, 1, 64, False, 'cpu')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(memory.small_config(cfg, 64, False).model)
    encoder = 4 * sum(one.numel() for one in model.segmentor.backbone.parameters())
    texts = 21 * (8 * 4 + 8)  # of each class, and its number
    assert peak.others == pytest.approx(encoder + texts, abs=100)


@pytest.mark.parametrize('name', ['supervised', 'u2pl'])
def test_gradients_that_are_not_computed_take_as_much(monkeypatch, name):
    peak = memory.peak_of_step(lite(name), 2, 64, False, 'cpu')
    monkeypatch.setattr(memory, '_CONVOLUTION_BACKWARD', None)
    assert memory.peak_of_step(lite(name), 2, 64, False, 'cpu') == peak


def test_gradients_of_a_bias_and_of_no_image_have_their_shapes():
    image, weight = torch.randn(2, 4, 7, 7), torch.randn(6, 2, 3, 3)
    for mask in ([True, True, True], [False, True, False]):
        given = ([6], [2, 2], [1, 1], [1, 1], False, [0, 0], 2, mask)
        grad = torch.randn(2, 6, 4, 4)
        wanted = torch.ops.aten.convolution_backward.default(grad, image, weight, *given)
        for one, other in zip(memory._zero_gradients(grad, image, weight, *given), wanted):
            assert (one is None) == (other is None)
            assert one is None or (one.shape == other.shape and not one.any())


def test_a_teacher_and_boxes_are_part_of_a_step():
    alone = memory.peak_of_step(lite('supervised'), 2, 64, False, 'cpu')
    whole = memory.peak_of_step(lite('weighting_unimatch'), 2, 64, False, 'cpu')
    assert alone.others == 0 and whole.others >= alone.weights, 'the teacher is a second network'
    assert whole.weights == pytest.approx(alone.weights, rel=1e-4)
    assert whole.step > 1.5 * alone.step
    # AdamW keeps two moments of each weight.
    assert alone.optimizer == pytest.approx(2 * alone.weights, rel=0.02)


def line(**changes):
    peak = memory.Peak(GIB // 2, GIB // 2, 0, 17 * GIB)
    known = dict(base=2 * GIB, slope=GIB / 100**2, images=16, parts=2, crop=(100, 100), gpus=2)
    return memory.Line('x', peak, **{**known, **changes})


def test_what_fits():
    assert line().at(4, (100, 100)) == 6 * GIB
    assert [line().most_images(room * GIB) for room in (22, 21, 6, 5)] == [20, 18, 4, 0]
    assert line(parts=1).most_images(21 * GIB) == 19
    assert line().largest_crop(18 * GIB) == 96 and line(multiple=14).largest_crop(18 * GIB) == 98
    assert line().largest_crop(GIB) == 0
    few = line(images=2, gpus=4)  # a batch of 1 + 1 is planned where the config has one
    assert few.most_images(4 * GIB) == 2 and few.recipe(4 * GIB) == (2, 4)
    assert line(parts=1, images=1, gpus=1).recipe(3 * GIB) == (1, 1)
    assert few.most_images(3.9 * GIB) == 0
    assert [line().recipe(room * GIB) for room in (34, 22, 10, 5)] == [
        *((32, 1), (16, 2), (8, 4)),
        None,
    ]
    text = plan.table([line()], [24, 12, 7], 2.0)
    assert '| `x` | 100 x 100 | 8 + 8 on 2 | 1.0 GiB | 18.0 GiB | 16 x 2 | 8 x 4 |' in text
    assert text.endswith('| 8 x 4 | 4 x 8 |\n') or text.endswith('| 8 x 4 | does not fit |\n')


def test_a_curve_bends_what_fits():
    """4 images of P pixels take 2 GiB + 4 (P / 10^4 + (P / 10^4)^2) GiB."""
    bent = line(images=4, curve=GIB / 100**4)
    assert bent.at(4, (100, 100)) == pytest.approx(10 * GIB)
    assert bent.at(1, (100, 200)) == pytest.approx(8 * GIB)
    assert [bent.most_images(room * GIB) for room in (10.1, 9.9)] == [4, 0]
    assert bent.largest_crop(27 * GIB) == 128  # where a line would say 224
    assert bent.largest_crop(10.3 * GIB) == 96 and bent.largest_crop(GIB) == 0


def test_an_update_that_takes_more_than_a_small_crop_bends_nothing(monkeypatch):
    """The peak of the smallest crop is that of the optimizer: the line is through the others."""
    given = {96: (14, 0.9), 128: (16, 0.1), 160: (25, 0.15)}
    monkeypatch.setattr(
        memory,
        'peak_of_step',
        lambda cfg, labeled, crop, *_: memory.Peak(0, 0, 0, *given[crop]),
    )
    found = memory.measure('x', lite('supervised'), (96, 128), False)
    assert found.at(2, (320, 320)) == pytest.approx(100)


def test_attention_is_planned_with_the_squares_of_its_pixels():
    """SegFormer's crop of 512, from steps below 260: a line was 9 % below it."""
    cfg = plan.read(str(CONFIGS / 'supervised' / 'supervised_segformer_mit-b0_custom.py'), {})
    found = memory.measure('segformer', cfg, (128, 192), False)
    assert found.curve > 0
    whole = memory.peak_of_step(cfg, 2, 512, False, 'cpu').total
    assert found.at(2, (512, 512)) == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize(
    ('peaks', 'at_320'), [((9, 16, 25), 100), ((9, 17, 25), 100), ((9, 16, 34), 577.75)]
)
def test_a_curve_goes_through_what_was_counted_and_never_falls(monkeypatch, peaks, at_320):
    """Steps of 96, 128 and 160: a line, less than a line, which is left one, and more."""
    given = dict(zip((96, 128, 160), peaks))
    monkeypatch.setattr(
        memory, 'peak_of_step', lambda cfg, labeled, crop, *_: memory.Peak(0, 0, 0, given[crop])
    )
    found = memory.measure('x', lite('supervised'), (96, 128), False)
    assert found.at(2, (96, 96)) == pytest.approx(9)
    assert found.at(2, (160, 160)) == pytest.approx(peaks[2])
    assert found.at(2, (320, 320)) == pytest.approx(at_320, abs=0.5)


def test_the_words_say_what_to_set():
    text = plan.in_words(line(), None, [12, 6], 2.0)
    assert text.startswith('x: 18.0 GiB on each GPU with 8 + 8 images of 100 x 100\n')
    assert 'weights 0.5 GiB, optimizer 0.5 GiB, gradients and activations of the step 17.0 ' in text
    assert 'at most 4 + 4 images of this crop, train_dataloader.batch_size=8' in text
    assert (
        'for 32 images an update, as 2 GPUs of the config have: train_dataloader.batch_size=8 '
        'optim_wrapper.accumulative_counts=4'
    ) in text
    assert 'a GPU of 6 GB:\n    does not fit with this crop\n' in text
    accumulated = plan.in_words(line(gpus=1, updates=4), None, [12], 2.0)
    assert (
        'for 64 images an update: train_dataloader.batch_size=8 optim_wrapper.accumulative_counts=8'
    ) in accumulated
    assert 'an update' not in plan.in_words(line(images=8, gpus=1, updates=4), None, [12], 2.0)
    thrifty = plan.in_words(line(), line(slope=GIB / 200**2), [6], 2.0)
    assert 'fits with with_cp=True of the encoder' in thrifty


def test_the_command_reads_variables_and_writes(tmp_path, capsys):
    config = CONFIGS / 'supervised' / 'supervised_efficientnet-lite0_custom.py'
    options = ['--cfg-options', 'crop_size=(96, 128)', 'batch_size=6']
    out = tmp_path / 'plan.txt'
    sizes = ['--gpu-memory', '8GB', '--crops', '65', '97']
    plan.main([str(config), *sizes, *options, '--out', str(out)])
    said = capsys.readouterr().out
    assert 'with 6 images of 96 x 128' in said and out.read_text().strip() in said
    assert said.count('a GPU of') == 1 and 'at most crops of' in said


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['--crops', '97', '65'], '--crops 97 65: give the smaller side first'),
        (['--crops', '64', '65'], "'64' is no side of a crop: give pixels above 64"),
        (['--gpu-memory', 'big'], "'big' is no memory: give gigabytes, such as 24GB"),
        (['--gpu-memory', '0'], "'0' is no memory"),
        (['--gpu-memory', '24', '1'], '--gpu-memory 1: --reserve 2 leaves nothing of it'),
        (['--threads', '0'], "'0' is no number: give a whole one from 1 on"),
    ],
)
def test_wrong_options(arguments, said, capsys):
    with pytest.raises(SystemExit):
        plan.main([UNIMATCH, *arguments])
    assert said in capsys.readouterr().err


def test_networks_of_transformers_are_planned(tmp_path, capsys):
    """Their patches are known when they are built; what they cannot compute again is left out."""
    pytest.importorskip('transformers')
    config = tmp_path / 'hf.py'
    base = CONFIGS / 'supervised' / 'supervised_efficientnet-lite0_custom.py'
    vit = dict(model_type='dinov2', hidden_size=24, num_hidden_layers=4, num_attention_heads=2)
    backbone = dict(_delete_=True, type='HFBackbone', model=dict(vit, image_size=28, patch_size=14))
    head = dict(_delete_=True, type='UniMatchDPTHead', in_channels=(24,) * 4, channels=8)
    head |= dict(num_classes=2, widths=(8,) * 4)
    model = dict(type='PatchEncoderDecoder', backbone=backbone, decode_head=head)
    crop = 'crop_size = (112, 224)'
    config.write_text(f'_base_ = {str(base)!r}\n{crop}\nmodel = {model!r}\n')
    cfg = plan.read(str(config), {})
    assert memory.patch_of(cfg) == 14 and memory.small_crops(14) == (196, 266)
    plan.main([str(config), '--gpu-memory', '8GB', '--reserve', '0'])
    said = capsys.readouterr().out
    assert 'images of 112 x 224' in said
    side = int(said.split('at most crops of ')[1].split()[0])
    assert side % 14 == 0 and side > 266


def test_a_step_on_a_gpu_has_as_many_pixels(monkeypatch):
    seen = []

    def peak_of_step(cfg, *sizes):
        seen.append(sizes)
        return memory.Peak(GIB, 0, 0, GIB)

    monkeypatch.setattr(plan, 'peak_of_step', peak_of_step)
    options = {'crop_size': (128, 512), 'batch_size': 6}
    cfg = plan.read(str(CONFIGS / 'unimatch' / 'unimatch_unet_custom.py'), options)
    assert plan.measured('x', cfg, True) == 'x: 2.0 GiB with 12 images of 256 x 256'
    assert seen == [(6, 256, True, 'cuda')]


def test_what_cannot_be_planned_is_refused():
    detector = str(CONFIGS / 'detection' / 'faster-rcnn_efficientnet-lite0_camvid-12.py')
    with pytest.raises(SystemExit, match='this is no config whose memory can be planned'):
        plan.read(detector, {})
    with pytest.raises(SystemExit, match='config file nothing.py does not exist'):
        plan.read('nothing.py', {})
    with pytest.raises(SystemExit, match='num_view'):
        plan.read(UNIMATCH, {'train_dataloader.dataset.unlabeled.strong.num_view': 2})


@pytest.mark.parametrize(
    ('crop', 'said'),
    [((0, 0), 'whole number >= 1, got 0'), (0, 'whole number'), ((64,), r'2 values, got \(64,\)')],
)
def test_crops_without_pixels_are_refused(crop, said):
    key = 'train_dataloader.dataset.geometry.crop.crop_size'
    with pytest.raises(SystemExit, match=f'{key} must be a .*{said}'):
        plan.read(UNIMATCH, {key: crop})


def test_a_number_is_a_square_crop():
    key = 'train_dataloader.dataset.geometry.crop.crop_size'
    assert plan.read(UNIMATCH, {key: 512}).train_dataloader.dataset.geometry.crop.crop_size == (
        *(512, 512),
    )


def test_mixed_precision_of_a_gpu_is_planned_as_amp_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = lite('supervised')
    wanted = memory.small_config(cfg, 64, True).optim_wrapper
    cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
    assert memory.small_config(cfg, 64, False).optim_wrapper == wanted
    assert wanted.type == 'CPUAmpOptimWrapper'


@pytest.mark.parametrize(
    ('side', 'reason'), [('72', 'divisible by the whole'), ('80', 'Sizes of tensors must match')]
)
def test_a_crop_that_a_network_does_not_divide_is_named(side, reason):
    config = CONFIGS / 'unimatch' / 'unimatch_unet_custom.py'
    said = f'--crops: a step at {side} x {side} failed .*{reason}.*multiples of 32'
    with pytest.raises(SystemExit, match=said):
        plan.main([str(config), '--crops', side, '128'])


def test_running_out_of_memory_is_not_of_the_crop(monkeypatch):
    def peak_of_step(*_):
        raise torch.OutOfMemoryError('out of memory')

    monkeypatch.setattr(memory, 'peak_of_step', peak_of_step)
    with pytest.raises(torch.OutOfMemoryError):
        memory.measure('x', lite('supervised'), (96, 128), False)


def test_accumulated_gradients_are_part_of_an_update(monkeypatch):
    monkeypatch.setattr(memory, 'peak_of_step', lambda *args: memory.Peak(0, 0, 0, args[2]))
    found = []
    for batch, steps in ((8, 4), (4, 2), (2, 1)):
        cfg = lite('supervised')
        cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size = batch, 8
        cfg.optim_wrapper.accumulative_counts = steps
        line = memory.measure('x', cfg, (96, 128), False)
        found.append((line.gpus, line.updates, line.update))
    assert found == [(1, 4, 32), (1, 2, 8), (4, 1, 8)]


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'train_dataloader.batch_size': 7}, 'batch_size is 7, .* a multiple of 2'),
        ({'train_dataloader.sampler.ratio': (1, 2)}, r'sampler\.ratio is \(1, 2\), .* set it to'),
    ],
)
def test_batches_that_are_not_halves_are_refused(options, said):
    with pytest.raises(SystemExit, match=said):
        plan.read(UNIMATCH, options)


def test_running_out_of_memory_names_the_plan():
    from mmseg_semi.errors import _machine_text

    text = _machine_text(torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'))
    assert 'mmseg-semi plan CONFIG says which batch and crop fit' in text


@pytest.mark.parametrize('network', ['segformer_mit-b0', 'upernet_swin-t', 'deeplabv3plus_r50'])
def test_the_patch_of_shipped_networks(network):
    """Of some, layers are drawn with numbers that a tensor without memory does not have."""
    config = CONFIGS / 'unimatch' / f'unimatch_{network}_custom.py'
    assert memory.patch_of(plan.read(str(config), {})) in (1, 4)


def test_a_folder_is_no_file_to_write(tmp_path, capsys):
    with pytest.raises(SystemExit):
        plan.main([str(tmp_path / 'none.py'), '--out', str(tmp_path)])
    assert f'--out {tmp_path} is a folder: name a file in it' in capsys.readouterr().err
