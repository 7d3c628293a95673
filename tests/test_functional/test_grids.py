"""Maps at the resolution of features, and features at that of images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.functional import bilinear_at


@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('size', [(13, 21), (1, 9), (5, 6)])
def test_features_at_pixels_are_those_of_the_enlarged_map(align_corners, size):
    source = torch.Generator().manual_seed(0)
    features = torch.randn(3, 4, 5, 6, generator=source, dtype=torch.float64)[:, :, : size[0]]
    full = F.interpolate(features, size=size, mode='bilinear', align_corners=align_corners)
    index = torch.randint(3 * size[0] * size[1], (40,), generator=source)
    index[:2] = torch.tensor([0, 3 * size[0] * size[1] - 1])
    wanted = full.permute(0, 2, 3, 1).flatten(0, 2)[index]
    got = bilinear_at(features, index, size, align_corners)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_places_are_exact_in_half_precision(dtype):
    features = torch.randn(1, 2, 65, 65, generator=torch.Generator().manual_seed(0)).to(dtype)
    index = torch.arange(0, 513 * 513, 1001)
    found = bilinear_at(features, index, (513, 513), False)
    wanted = bilinear_at(features.double(), index, (513, 513), False)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted.to(dtype))
