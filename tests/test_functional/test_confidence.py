import math

import pytest
import torch

from mmseg_semi.functional import confidence_score, image_confidence, selected_ratio


def pixel(*values):
    return torch.tensor(values).reshape(1, -1, 1, 1)


def test_scores_by_hand():
    prob = pixel(0.5, 0.3, 0.2)
    assert confidence_score(prob, 'max').item() == pytest.approx(0.5)
    assert confidence_score(prob).item() == pytest.approx(0.2)
    entropy = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
    assert confidence_score(prob, 'entropy').item() == pytest.approx(-entropy)


def test_one_hot_is_surest_and_uniform_least_sure_for_every_kind():
    prob = torch.cat([pixel(1.0, 0.0, 0.0), pixel(0.6, 0.3, 0.1), pixel(*[1 / 3] * 3)])
    for kind, best, worst in (('max', 1, 1 / 3), ('margin', 1, 0), ('entropy', 0, -math.log(3))):
        score = confidence_score(prob, kind).flatten().tolist()
        assert score[0] > score[1] > score[2]
        assert score[0] == pytest.approx(best, abs=1e-6)
        assert score[2] == pytest.approx(worst, abs=1e-6)


def test_shape_and_errors():
    assert confidence_score(torch.rand(2, 5, 3, 4)).shape == (2, 3, 4)
    with pytest.raises(ValueError, match='entropy'):
        confidence_score(torch.rand(1, 2, 1, 1), 'maximum')
    with pytest.raises(ValueError, match='2 classes'):
        confidence_score(torch.ones(1, 1, 2, 2), 'margin')


def test_selected_ratio_counts_valid_pixels_only():
    selected = torch.tensor([[[True, True, False, True]]])
    valid = torch.tensor([[[True, False, True, True]]])
    assert selected_ratio(selected, valid).item() == pytest.approx(2 / 3)
    assert selected_ratio(selected, torch.zeros_like(valid)).item() == 0
    one = torch.zeros_like(valid)
    one[..., 1] = True
    assert selected_ratio(selected, one).item() == 1


def test_mean_confidence_of_the_valid_pixels_of_an_image():
    confidence = torch.tensor([[[0.2, 0.4], [0.9, 0.6]], [[0.5, 0.5], [0.5, 0.5]]])
    valid = torch.tensor([[[True, True], [False, True]], [[False, False], [False, False]]])
    wanted = torch.tensor([0.4, 0.0])[:, None, None].expand(2, 2, 2)
    torch.testing.assert_close(image_confidence(confidence, valid), wanted)
