"""The console before the first step: a few lines; the log file has everything."""

from __future__ import annotations

import itertools
import json
import logging
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub, print_log
from tool_runs import CONFIGS

from mmseg_semi.apis import start
from mmseg_semi.apis.start import QuietStart, StartHook, _time_line
from mmseg_semi.engine.hooks import PredictionWriterHook
from mmseg_semi.utils.config import load_config


def logged(level: int, module: str, on: bool = True) -> bool:
    """Whether the console has what a function of a module logs."""
    passed = []
    logger, handler, quiet = logging.Logger('one'), logging.Handler(), QuietStart()
    quiet.on = on
    handler.addFilter(quiet)
    handler.emit = passed.append
    logger.addHandler(handler)
    space = dict(__name__=module, print_log=print_log, logger=logger, level=level)
    exec("print_log('text', logger=logger, level=level)", space)
    return bool(passed)


def test_the_console_has_no_information_of_libraries_before_the_first_step():
    assert not logged(logging.INFO, 'mmengine.runner.runner')
    assert not logged(logging.INFO, 'mmseg.models.builder')
    assert logged(logging.WARNING, 'mmengine.runner.runner')
    assert logged(logging.INFO, 'mmengine.runner.runner', on=False)
    for name in ('mmseg_semi.engine.hooks.data_check_hook', 'mmseg_semi.apis.start', 'my_hooks'):
        assert logged(logging.INFO, name)


def test_time_and_memory_of_a_step():
    line = _time_line(0.5, 1000)
    assert line.startswith('Time: 0.50 s a step, 8 min for the 1000 that are left, without')
    assert ', 2.8 h for the 2000' in _time_line(5.0, 2000)
    assert re.search(r'Memory so far: \d+\.\d GiB', line)


def test_the_time_is_said_when_steps_are_known(monkeypatch):
    said, hook = [], StartHook(QuietStart())
    monkeypatch.setattr(start, 'print_log', lambda text, logger: said.append(text))
    for iteration in range(90):  # the first step took a minute, the others take 3 s
        monkeypatch.setattr(start.time, 'monotonic', lambda: 60 + 3 * iteration)  # noqa: B023
        hook.after_train_iter(SimpleNamespace(iter=iteration, max_iters=100), iteration)
        assert len(said) == (iteration >= 4)
    assert said[0].startswith('Time: 3.00 s a step, 5 min for the 95 that are left')


def test_the_time_is_corrected_and_validation_left_out(monkeypatch):
    said, hook, clock = [], StartHook(QuietStart()), [0.0]
    monkeypatch.setattr(start, 'print_log', lambda text, logger: said.append(text))
    monkeypatch.setattr(start.time, 'monotonic', lambda: clock[0])
    for iteration in range(100):
        clock[0] += 5 if iteration < 4 else 1  # others used the machine at first
        hook.after_train_iter(SimpleNamespace(iter=iteration, max_iters=200), iteration)
        hook.before_val(None)
        clock[0] += 100
        hook.after_val(None)
    first, second = said
    assert first.startswith('Time: 5.00 s a step, ') and ' for the 196 that are left' in first
    assert second.startswith('Time: 1.15 s a step, ')


def test_the_estimate_of_a_check_is_said_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = SimpleNamespace(work_dir=str(tmp_path), max_iters=1000, iter=0, cfg=Config())
    found = dict(training=dict(step_seconds=0.5, memory='1.5 GiB'))
    for data in (dict(a='b'), {}):
        assert start._estimate(runner).startswith('Time and memory: said 10 s after')
        (tmp_path / 'check.json').write_text(json.dumps(dict(found, data=data)))
    wanted = 'Time and memory: about 8 min, 1.5 GiB, as the last mmseg-semi check has measured; '
    assert start._estimate(runner).startswith(wanted)


@pytest.mark.parametrize(
    ('network', 'preset', 'said'),
    [
        ('efficientnet-lite0', 'laptop', ''),
        ('deeplabv3plus_r50', 'gpu24', 'Warning: there is no GPU, and a step has 1.2 million pi'),
    ],
)
def test_a_preset_for_gpus_is_warned_of_on_a_cpu(tmp_path, monkeypatch, network, preset, said):
    bases = (f'unimatch/unimatch_{network}_custom.py', f'custom/{preset}.py')
    (tmp_path / 'leaves.py').write_text(f'_base_ = {[str(CONFIGS / one) for one in bases]}\n')
    train = load_config(str(tmp_path / 'leaves.py')).train_dataloader
    crop = tuple(train.dataset.geometry.crop.crop_size)
    monkeypatch.setattr(start, '_model_lines', lambda model: [])
    monkeypatch.setattr(start, 'leaf_datasets', lambda dataset: [dataset])
    monkeypatch.setattr(start, 'crop_size', lambda leaf: crop)
    loader = SimpleNamespace(dataset=SimpleNamespace(), batch_size=train.batch_size)
    runner = SimpleNamespace(model=torch.nn.Linear(1, 1), train_dataloader=loader, iter=0)
    runner.train_loop, runner._val_loop, runner.max_iters = None, None, 5
    first, second, *_ = itertools.islice(start.summary(runner), 2)
    assert first == f'Crop: {crop[0]} x {crop[1]}'
    assert second[:55] == (said or 'Steps: 5')


def test_checkpoints_are_where_their_hook_writes_them(tmp_path):
    other, hook = PredictionWriterHook(out_dir='masks'), CheckpointHook(out_dir='elsewhere')
    assert start._folder_of_checkpoints(SimpleNamespace(hooks=[other, hook])) == 'elsewhere'
    assert start._folder_of_checkpoints(SimpleNamespace(hooks=[other])) == 'none are saved'


def test_a_start_has_few_lines(unimatch_run):
    text = unimatch_run.output.split('Iter(train)')[0]
    assert len(text.splitlines()) <= 15, text
    for words in (
        'Network: EncoderDecoder of ',
        'Method: the student labels; refiners select (ConfidenceThreshold)',
        'Classes: ',
        'Checkpoints: ',
        'Steps: ',
        'Time and memory: ',
    ):
        assert words in text


@pytest.mark.parametrize(
    ('best', 'warmup', 'warned'),
    [
        (2000, 2000, True),
        (1000, 2000, True),
        (4000, 2000, False),
        (2000, 0, False),
        (None, 9, None),
    ],
)
def test_the_best_checkpoint_is_named_and_a_start_that_stayed_the_best(
    monkeypatch, best, warmup, warned
):
    said = []
    monkeypatch.setattr(start, 'print_log', lambda text, **options: said.append((text, options)))
    hub = MessageHub.get_instance(f'best{best}{warmup}')
    if best:
        hub.update_info('best_ckpt', f'work/best_mIoU_iter_{best}.pth')
        hub.update_info('best_score', 71.234)
    runner = SimpleNamespace(
        message_hub=hub, model=SimpleNamespace(warmup_length=warmup), max_iters=4000
    )
    StartHook(QuietStart()).after_train(runner)
    lines = [text for text, _ in said]
    if best is None:
        assert lines == []
        return
    assert lines[0] == f'Best on the validation images: 71.23, work/best_mIoU_iter_{best}.pth'
    assert len(lines) == 1 + warned
    if warned:
        assert lines[1].startswith(
            f'That is from the first {warmup} steps, which trained on labels'
        )
        assert said[1][1]['level'] == logging.WARNING


@pytest.mark.parametrize(
    ('folder', 'warmup', 'warned'),
    [('work', 100, True), ('work', 99, False), ('work/labels_alone', 100, False)],
)
def test_a_method_that_never_begins_is_warned_of(monkeypatch, folder, warmup, warned):
    said = []
    monkeypatch.setattr(start, 'summary', lambda runner: ())
    monkeypatch.setattr(start, 'print_log', lambda text, **_: said.append(text))
    model = SimpleNamespace(warmup_length=warmup)
    StartHook(QuietStart()).before_train(
        SimpleNamespace(model=model, max_iters=100, work_dir=folder)
    )
    assert [one[:40] for one in said] == ['All 100 steps train on labels alone, bec'] * warned
