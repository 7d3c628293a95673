"""Counting the memory of a step: by hand on a few tensors, and as a line over the pixels."""

from __future__ import annotations

import pytest
import torch
from tool_runs import CONFIGS, load_tool

memory = load_tool('benchmarks/memory.py')
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
    crops = (65, 81, 97)
    peaks = [memory.peak_of_step(str(narrow), 2, crop, False, 'cpu')[1] for crop in crops]
    slope = (peaks[2] - peaks[0]) / (97**2 - 65**2)
    assert peaks[1] == pytest.approx(peaks[0] + slope * (81**2 - 65**2), rel=0.05)
    static, peak = memory.peak_of_step(str(narrow), 2, 97, True, 'cpu')
    assert static < peak < peaks[2]


def test_the_state_of_a_step_is_weights_and_momenta():
    """ResNet-50 has 23.5 million weights, the decoder 16.6 million: each with its momentum."""
    static, peak = memory.peak_of_step(UNIMATCH, 2, 33, False, 'cpu')
    assert static == pytest.approx(2 * 4 * 40.4e6, rel=0.02) and static < peak


def test_cards_and_recipes():
    line = memory.Line('x', GIB, 2 * GIB, GIB / 100**2, images=16, crop=100, gpus=2)
    assert line.peak(4) == 6 * GIB
    assert line.most_images(24, reserve=2) == 20 and line.most_images(6, reserve=2) == 0
    assert memory.recipe(line, 24, 2.0) == '16 x 2'
    assert memory.recipe(line, 12, 2.0) == '8 x 4'
    assert memory.recipe(line, 7, 2.0) == 'does not fit'
    text = memory.table([line], 2.0)
    assert '| `x` | 100 | 8 + 8 on 2 | 1.0 GiB | 18.0 GiB | 16 x 2 | 32 x 1 | 32 x 1 |' in text


def test_wrong_arguments(capsys):
    for argv, message in (
        ([UNIMATCH, '--crops', '97', '65'], '--crops must be two sizes'),
        (['nothing.py'], 'config file nothing.py does not exist'),
    ):
        with pytest.raises(SystemExit):
            memory.parse_args(argv)
        assert message in capsys.readouterr().err
    supervised = CONFIGS / 'supervised' / 'supervised_deeplabv3plus_r50_voc12-92.py'
    with pytest.raises(SystemExit, match='give a semi-supervised one'):
        memory.small_config(str(supervised), 65, False)
