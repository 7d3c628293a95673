import math

import pytest
import torch

from mmseg_semi.functional import weighted_cross_entropy
from mmseg_semi.functional.losses import DENOMINATORS


def reference(logits, label, valid, selected, weight, denominator):
    """Pixel by pixel, as the formula reads."""
    total, counts = 0.0, dict.fromkeys(('valid', 'selected', 'weight', 'valid_weight'), 0.0)
    counts['all'] = label.numel()
    batch, _, height, width = logits.shape
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if not valid[b, y, x] or label[b, y, x] == 255:
                    continue
                counts['valid'] += 1
                counts['valid_weight'] += weight[b, y, x].item()
                if not selected[b, y, x]:
                    continue
                counts['selected'] += 1
                counts['weight'] += weight[b, y, x].item()
                scores = logits[b, :, y, x].tolist()
                log_sum = math.log(sum(math.exp(s) for s in scores))
                total += weight[b, y, x].item() * (log_sum - scores[label[b, y, x]])
    return total / counts[denominator]


@pytest.mark.parametrize('denominator', DENOMINATORS)
def test_equals_the_sum_over_pixels(denominator):
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6)
    label = torch.randint(0, 4, (2, 5, 6))
    label[0, 0, :3] = 255
    valid, selected = torch.rand(2, 5, 6) > 0.2, torch.rand(2, 5, 6) > 0.4
    weight = torch.rand(2, 5, 6)
    loss = weighted_cross_entropy(logits, label, valid, selected, weight, denominator)
    expected = reference(logits, label, valid, selected, weight, denominator)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_defaults_are_all_valid_pixels_with_weight_one():
    torch.manual_seed(0)
    logits, label = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 0]]])
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(logits, label)
    assert weighted_cross_entropy(logits, label, valid).item() == pytest.approx(expected.item())


@pytest.mark.parametrize('denominator', DENOMINATORS)
def test_nothing_to_train_is_zero_and_connected(denominator):
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    label = torch.zeros(1, 2, 2, dtype=torch.int64)
    nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
    loss = weighted_cross_entropy(logits, label, nothing, nothing, torch.ones(1, 2, 2), denominator)
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_infinite_logits_of_dropped_pixels_do_not_spread():
    logits = torch.randn(1, 2, 1, 2)
    logits[0, 0, 0, 1] = float('inf')
    logits.requires_grad_()
    valid = torch.tensor([[[True, False]]])
    loss = weighted_cross_entropy(logits, torch.tensor([[[0, 1]]]), valid)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad[..., 0]).all()


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.zeros(1, 2, 300, 300, dtype=torch.bfloat16)
    label = torch.zeros(1, 300, 300, dtype=torch.int64)
    loss = weighted_cross_entropy(logits, label, label == 0)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_errors_name_the_argument():
    logits, label = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="'pixels'"):
        weighted_cross_entropy(logits, label, label == 0, denominator='pixels')
    with pytest.raises(ValueError, match='size'):
        weighted_cross_entropy(logits, label[:, :1], label[:, :1] == 0)
