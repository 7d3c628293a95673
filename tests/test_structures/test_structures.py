from dataclasses import fields

import pytest
import torch

from mmseg_semi.structures import Mix, PseudoLabel, SegOutputs


def pseudo_label(batch=2, **changes):
    torch.manual_seed(0)
    valid = torch.ones(batch, 4, 4, dtype=torch.bool)
    return PseudoLabel.from_logits(torch.randn(batch, 3, 4, 4), valid).update(**changes)


def test_from_logits():
    logits = torch.tensor([[[[2.0, -1.0]], [[0.0, 3.0]]]], requires_grad=True)  # (1, 2, 1, 2)
    valid = torch.tensor([[[True, False]]])
    pseudo = PseudoLabel.from_logits(logits, valid)
    assert pseudo.label.tolist() == [[[0, 1]]]
    expected = torch.tensor([2.0, 4.0]).sigmoid()
    torch.testing.assert_close(pseudo.confidence.flatten(), expected)
    torch.testing.assert_close(pseudo.prob.sum(1), torch.ones(1, 1, 2))
    assert pseudo.selected.tolist() == [[[True, False]]]
    assert not pseudo.logits.requires_grad and not pseudo.prob.requires_grad
    pseudo.selected[:] = False
    assert pseudo.valid.any(), 'selected is a copy of valid'
    with pytest.raises(ValueError, match='input size'):
        PseudoLabel.from_logits(logits, valid[:, :, :1])


def test_mixing_leaves_no_field_behind():
    everything = pseudo_label(
        weight=torch.rand(2, 4, 4),
        reliable=torch.rand(2, 4, 4) > 0.5,
        extras=dict(boxes=torch.randint(0, 255, (2, 3, 4, 4), dtype=torch.uint8)),
    )
    # Each image is a constant 0 or 1 in every field, so a mixed pixel shows where it is from.
    constant = everything.map(
        lambda t: torch.arange(2).view(2, *[1] * (t.dim() - 1)).expand_as(t).to(t.dtype)
    )
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1:3, 2:] = True
    mixed = constant.map(Mix(mask, torch.tensor([1, 0])))
    expected = torch.stack([mask[0], ~mask[1]])
    checked = 0
    for item in fields(PseudoLabel):
        value = getattr(mixed, item.name)
        for tensor in value.values() if isinstance(value, dict) else [value]:
            planes = tensor.bool() if tensor.dim() == 3 else tensor.bool().all(1)
            assert torch.equal(planes, expected), item.name
            checked += 1
    assert checked == len(fields(PseudoLabel))


def test_used_is_selected_and_valid():
    pseudo = pseudo_label(1)
    pseudo.valid[:, 0] = False
    pseudo.selected[:, :, 0] = False
    expected = torch.ones(1, 4, 4, dtype=torch.bool)
    expected[:, 0] = False
    expected[:, :, 0] = False
    assert torch.equal(pseudo.used, expected)


def test_seg_outputs_upsample_once_and_split():
    raw = torch.randn(3, 2, 4, 4, dtype=torch.bfloat16)
    outputs = SegOutputs(
        [raw], (8, 8), False, [torch.randn(3, 5, 4, 4)], dict(a=torch.ones(3, 1, 2, 2))
    )
    assert outputs.logits.shape == (3, 2, 8, 8) and outputs.logits.dtype == torch.float32
    assert outputs.logits is outputs.logits
    first, second = outputs.split([1, 2])
    assert len(first) == 1 and len(second) == 2
    torch.testing.assert_close(second.logits, outputs.logits[1:])
    assert torch.equal(second.maps[0], outputs.maps[0][1:])
    assert second.features['a'].shape[0] == 2
    with pytest.raises(ValueError, match='sum'):
        outputs.split([1, 1])
