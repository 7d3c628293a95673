"""Checkpoints are verified before anything is loaded from them."""

from __future__ import annotations

import math
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mmseg_semi.utils.safe_checkpoints import (
    CheckpointError,
    is_complete,
    latest_checkpoint,
    not_finite,
    read_checkpoint,
    refuse_incomplete,
    resumable_checkpoint,
)


def content(**changes: Any) -> dict[str, Any]:
    whole = dict(
        state_dict={
            'segmentor.weight': torch.arange(1000.0),
            'teacher.weight': torch.arange(9.0),
        },
        optimizer=dict(state={0: dict(exp_avg=torch.ones(3))}),
        param_schedulers=[dict(end=8)],
        message_hub=dict(),
        meta=dict(iter=4, epoch=0, seed=7),
    )
    return {**whole, **changes}


def save(folder: Path, name: str, **changes: Any) -> str:
    torch.save(content(**changes), folder / name)
    return str(folder / name)


def refusal(path: Any, function: Any = read_checkpoint) -> str:
    with pytest.raises(CheckpointError) as caught:
        function(path)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def logged(monkeypatch):
    texts: list[str] = []
    name = 'mmseg_semi.utils.safe_checkpoints.print_log'
    monkeypatch.setattr(name, lambda text, **_: texts.append(text))
    return texts


# ---------------------------------------------------------------------------------- one file
def test_a_cut_or_foreign_file_is_not_complete(tmp_path):
    path = save(tmp_path, 'iter_1.pth')
    assert is_complete(path)
    data = (tmp_path / 'iter_1.pth').read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / 'cut.pth').write_bytes(data[:length])
        assert not is_complete(tmp_path / 'cut.pth'), length
        assert 'is cut short' in refusal(tmp_path / 'cut.pth') or length == 0
    assert not is_complete(tmp_path / 'missing.pth') and not is_complete(tmp_path)


def test_a_sound_file_is_read(tmp_path):
    path = save(tmp_path, 'iter_1.pth')
    read = read_checkpoint(path)
    assert read['state_dict']['segmentor.weight'].equal(torch.arange(1000.0))
    assert read['meta'] == dict(iter=4, epoch=0, seed=7) and resumable_checkpoint(path).keys()
    refuse_incomplete(path, 'load_from')
    refuse_incomplete('https://example.org/weights.pth', 'load_from')
    # Torch's old format is read too, though it has no checksums.
    torch.save(content(), tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / 'old.pth')['meta']['seed'] == 7


def test_every_flipped_bit_of_a_tensor_is_found(tmp_path):
    path = Path(save(tmp_path, 'iter_1.pth'))
    data, wanted = path.read_bytes(), torch.arange(1000.0).numpy().tobytes()
    start = data.index(wanted)
    for place in random.Random(0).sample(range(start, start + len(wanted)), 30):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(bytes(flipped))
        assert 'is damaged (the checksum of its part iter_1/data/' in refusal(path)


def test_a_flipped_bit_anywhere_changes_nothing_or_is_found(tmp_path):
    """Padding and times of a zip archive hold nothing."""
    path = Path(save(tmp_path, 'iter_1.pth'))
    data, wanted = path.read_bytes(), read_checkpoint(path)
    found = 0
    for place in random.Random(1).sample(range(len(data)), 120):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(bytes(flipped))
        try:
            read = read_checkpoint(path)
        except CheckpointError:
            found += 1
            continue
        assert read['meta'] == wanted['meta'] and read['param_schedulers'] == [dict(end=8)]
        for name, value in wanted['state_dict'].items():
            assert read['state_dict'][name].equal(value)
    assert found > 60


@pytest.mark.parametrize(
    ('write', 'problem'),
    [
        (lambda path: path.touch(), 'is empty'),
        (lambda path: path.mkdir(), 'is a folder'),
        (lambda path: None, 'does not exist'),
        (lambda path: path.write_text('no checkpoint'), 'is no checkpoint of torch'),
        (lambda path: path.write_bytes(pickle.dumps({})), 'is no checkpoint of torch'),
        (lambda path: torch.save([1, 2], path), 'holds a list and not a dict'),
        (lambda path: torch.save(torch.ones(2), path), 'holds a Tensor and not a dict'),
        (lambda path: torch.save(dict(a=os.system), path), 'system, which is neither tensor'),
        (lambda path: zipfile.ZipFile(path, 'w').writestr('a.txt', 'b'), 'and no checkpoint'),
    ],
)
def test_other_files_are_called_what_they_are(write, problem, tmp_path):
    path = tmp_path / 'iter_4.pth'
    write(path)
    assert problem in refusal(path) and str(path) in refusal(path)


@pytest.mark.parametrize('part', ['segmentor.weight', 'teacher.weight'])
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(part, value, tmp_path):
    state = content()['state_dict']
    state[part][3] = value
    path = save(tmp_path, 'iter_4.pth', state_dict=state)
    assert f'not finite, in 1 of its tensors ({part})' in refusal(path)
    torch.save(state, tmp_path / 'plain.pth')
    assert f'({part})' in refusal(tmp_path / 'plain.pth')


def test_what_is_not_finite_is_told_from_what_is_large():
    """The sum of large numbers is infinite, that of both infinities is NaN."""
    large = torch.full((3,), 3e38)
    assert not_finite(dict(large=large, half=large.new_full((3,), 6e4).half())) == []
    assert not_finite([torch.tensor([math.inf, -math.inf]), large, torch.zeros(0)]) == ['0']
    eighth = torch.tensor([1.0, math.inf]).to(torch.float8_e5m2)  # torch has no sum of these
    assert not_finite(dict(a=eighth, b=eighth[:1])) == ['a']


def test_a_state_of_the_optimizer_that_is_not_finite_is_refused(tmp_path):
    state = dict(state={0: dict(exp_avg=torch.tensor([1.0, math.nan]))})
    path = save(tmp_path, 'iter_4.pth', optimizer=state)
    assert 'in 1 of its tensors (optimizer.state.0.exp_avg)' in refusal(path)


def test_weights_alone_can_not_be_resumed_from(tmp_path):
    whole = content()
    del whole['optimizer'], whole['param_schedulers']
    torch.save(whole, tmp_path / 'best_mIoU_iter_8.pth')
    text = refusal(tmp_path / 'best_mIoU_iter_8.pth', resumable_checkpoint)
    assert 'has weights, but no optimizer, no schedule, so the run can not go on' in text
    assert 'resume from one that has them, or start a new run with load_from=' in text
    other = save(tmp_path, 'iter_8.pth')
    text = refusal(tmp_path / 'best_mIoU_iter_8.pth', resumable_checkpoint)
    assert f'; resume from {other}, or start a new run' in text
    torch.save(whole['state_dict'], tmp_path / 'plain.pth')
    assert 'no iteration' in refusal(tmp_path / 'plain.pth', resumable_checkpoint)


# ---------------------------------------------------------------------------------- of a run
def test_latest_is_the_named_one_or_else_the_largest_sound_number(tmp_path, logged):
    assert latest_checkpoint(tmp_path) is None
    older, newer = save(tmp_path, 'iter_9.pth'), save(tmp_path, 'iter_10.pth')
    save(tmp_path, 'best_mIoU_iter_30.pth')
    assert latest_checkpoint(tmp_path) == newer
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text(older)
    assert latest_checkpoint(tmp_path) == older
    # The folder was moved: the name counts.
    pointer.write_text('/somewhere/else/iter_9.pth')
    assert latest_checkpoint(tmp_path) == older
    for text in ('', str(tmp_path / 'iter_11.pth')):
        pointer.write_text(text)
        assert latest_checkpoint(tmp_path) == newer
    assert logged == []
    (tmp_path / 'iter_12.pth.part').write_bytes((tmp_path / 'iter_9.pth').read_bytes())
    assert latest_checkpoint(tmp_path) == newer


@pytest.mark.parametrize('damage', ['cut', 'empty', 'bit', 'nan', 'weights'])
def test_a_damaged_one_is_named_and_the_one_before_taken(damage, tmp_path, logged):
    older, newer = save(tmp_path, 'iter_9.pth'), Path(save(tmp_path, 'iter_10.pth'))
    (tmp_path / 'last_checkpoint').write_text(str(newer))
    data = bytearray(newer.read_bytes())
    if damage == 'bit':
        data[data.index(torch.arange(1000.0).numpy().tobytes()) + 99] ^= 1
    if damage == 'nan':
        save(tmp_path, 'iter_10.pth', state_dict=dict(a=torch.tensor(math.nan)))
    elif damage == 'weights':
        torch.save(dict(state_dict={}, meta={}), newer)
    else:
        newer.write_bytes(data[: dict(cut=1000, empty=0).get(damage)])
    assert latest_checkpoint(tmp_path) == older
    assert len(logged) == 2 and logged[0].startswith(f'--resume {newer}: the file ')
    assert logged[0].endswith('It is passed over.')
    assert logged[1] == f'--resume: the run goes on from {older}'


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tmp_path, logged):
    for name in ('iter_2.pth', 'iter_4.pth'):
        os.truncate(save(tmp_path, name), 500)
    text = refusal(tmp_path, latest_checkpoint)
    assert f'none of the 2 checkpoints of {tmp_path} can be gone on from' in text
    assert 'iter_4.pth: the file is cut short' in text and 'another --work-dir' in text


def test_the_pointer_of_a_copied_folder_does_not_lead_to_the_original(tmp_path, logged):
    original, copy = tmp_path / 'original', tmp_path / 'copy'
    original.mkdir()
    path = save(original, 'iter_4.pth')
    (original / 'last_checkpoint').write_text(path)
    shutil.copytree(original, copy)
    assert latest_checkpoint(copy) == str(copy / 'iter_4.pth')
    (copy / 'iter_4.pth').unlink()
    text = refusal(copy, latest_checkpoint)
    assert f'names {path}, which is in another folder' in text and f'--resume {path}' in text
    save(copy, 'iter_2.pth')
    assert latest_checkpoint(copy) == str(copy / 'iter_2.pth')


@pytest.mark.parametrize('pointer', ['binary', 'folder', 'null', 'lines'])
def test_a_pointer_that_is_none_is_said_and_not_read(pointer, tmp_path, logged):
    path, wanted = tmp_path / 'last_checkpoint', save(tmp_path, 'iter_4.pth')
    if pointer == 'folder':
        path.mkdir()
    else:
        path.write_bytes(dict(binary=b'\xff\xfe\x9c', null=b'a\0b', lines=b'a\nb')[pointer])
    assert latest_checkpoint(tmp_path) == wanted
    assert logged == [f'{path} is not what a run writes there, and is not read']
