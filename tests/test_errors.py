"""What a user is told in place of a traceback, and what stays a traceback."""

from __future__ import annotations

import errno
import os
import sys
from types import SimpleNamespace
from typing import Any, Callable

import pytest
import torch
from mmseg.models.backbones import UNet
from torch.utils.data import DataLoader, Dataset

from mmseg_semi.arguments import check_choice
from mmseg_semi.errors import check_one_size, refusal, run_tool


class Broken(Dataset):
    """A data set whose only sample refuses itself, or fails."""

    def __init__(self, fail: Callable[[], Any]) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.fail()


def wrong_size() -> None:
    check_one_size('mask.png', (2, 3), 'image.jpg', (4, 5))


def wrong_choice() -> None:
    check_choice('mode', 'slid', ('slide', 'whole'))


def own_fault() -> None:
    check_choice('mode', 1, None)  # type: ignore[arg-type]


def wrapped() -> None:
    try:
        wrong_choice()
    except ValueError as error:
        raise RuntimeError('class `Mixer` in models/mixers.py: ...') from error


def caught(fail: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as found:
        fail()
    return found.value


SIZES = 'mask.png has 3 x 2 pixels, its image image.jpg 5 x 4; they must have one size'
CHOICE = "mode must be one of ('slide', 'whole'), got 'slid'. Did you mean 'slide'?"


@pytest.mark.parametrize(
    ('fail', 'text'), [(wrong_size, SIZES), (wrong_choice, CHOICE), (wrapped, CHOICE)]
)
def test_refusals_are_told(fail, text):
    assert refusal(caught(fail)) == text


@pytest.mark.parametrize(('fail', 'text'), [(wrong_size, SIZES), (wrong_choice, CHOICE)])
def test_refusals_of_a_data_worker_are_told(fail, text):
    loader = DataLoader(Broken(fail), num_workers=1)
    assert refusal(caught(lambda: next(iter(loader)))) == text


@pytest.mark.parametrize('fail', [own_fault, lambda: {}['key'], lambda: 1 / 0])
@pytest.mark.parametrize('workers', [0, 1])
def test_faults_of_the_program_stay_tracebacks(fail, workers):
    loader = DataLoader(Broken(fail), num_workers=workers)
    assert refusal(caught(lambda: next(iter(loader)))) is None


@pytest.mark.parametrize(
    ('number', 'text'),
    [
        (errno.ENOSPC, 'iter_8.pth: the disk is full: free some space, and run the command again.'),
        (
            errno.EROFS,
            'iter_8.pth: the file system is read-only: name another folder, and run the command '
            'again.',
        ),
    ],
)
def test_what_the_machine_lacks_is_told(number, text):
    assert refusal(OSError(number, 'as the system says it', 'iter_8.pth')) == text


def test_too_little_memory_is_told():
    text = refusal(caught(lambda: torch.empty(1 << 60, dtype=torch.uint8)))
    assert text.startswith('there is not enough memory (')
    assert all(
        key in text
        for key in ('train_dataloader.batch_size', 'accumulative_counts', 'with_cp=True')
    )
    assert refusal(RuntimeError('shapes do not agree')) is None


def test_what_torch_cannot_compile_names_the_key():
    from torch._inductor.exc import InvalidCxxCompiler

    text = refusal(InvalidCxxCompiler())
    assert text.startswith('model.compiled: torch could not compile the encoder (No working C++')
    assert text.endswith('or set model.compiled=None.') and '\n' not in text


def test_a_size_that_a_unet_does_not_take_names_the_crop():
    shape = SimpleNamespace(num_stages=5, strides=(1,) * 5, downsamples=(True,) * 4)
    text = refusal(caught(lambda: UNet._check_input_divisible(shape, torch.zeros(1, 3, 65, 65))))
    assert '(65, 65)' in text and 'divisible by the whole downsample rate 16' in text
    assert text.endswith('train_dataloader.dataset.geometry.crop.crop_size.')


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tool sets in its process does not stay in this one."""
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')


def end_of(main: Callable, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, 'argv', ['tool.py', *arguments])
    with pytest.raises(SystemExit) as ended:
        run_tool(main)
    return ended.value.code


def test_a_tool_ends_with_one_sentence(monkeypatch):
    def refused(arguments: list[str]) -> None:
        assert arguments == ['config.py']
        raise ValueError('not ours')

    assert end_of(lambda _: wrong_choice(), monkeypatch) == f'error: {CHOICE}'
    assert end_of(lambda _: sys.exit('no such file'), monkeypatch) == 'error: no such file'
    assert end_of(lambda _: 3, monkeypatch) == 3
    assert end_of(lambda _: None, monkeypatch) is None
    monkeypatch.setattr(sys, 'argv', ['tool.py', 'config.py'])
    with pytest.raises(ValueError, match='not ours'):
        run_tool(refused)


def test_traceback_shows_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool.py', '--traceback', 'a'])
    with pytest.raises(ValueError, match='mode must be one of'):
        run_tool(lambda arguments: wrong_choice() if arguments == ['a'] else None)


def test_what_torch_says_of_a_disk():
    """Its writer has an error of its own for what the operating system says."""
    text = '[enforce fail at inline_container.cc:668] . open file failed with strerror: '
    found = refusal(RuntimeError(text + os.strerror(errno.EROFS)))
    assert found is not None and 'the file system is read-only: name another folder' in found
    assert refusal(RuntimeError(text + 'no such thing')) is None
