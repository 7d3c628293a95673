"""Tiles of a large image, blended, are the image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.functional import blended_bands, resized_bands, tile_spans, tile_weights


@pytest.mark.parametrize(
    ('size', 'wanted'),
    [
        (64, [(0, 64)]),
        (65, [(0, 64), (32, 65)]),
        (129, [(0, 64), (32, 96), (64, 128), (96, 129)]),
    ],
)
def test_tiles_begin_at_multiples_of_32_and_cover_the_side(size, wanted):
    assert tile_spans(size, 64, 16) == wanted


def test_weights_are_0_at_inner_borders_and_1_at_those_of_the_image():
    first, second = tile_spans(160, 96, 32)
    left, right = tile_weights(first, 160, 32), tile_weights(second, 160, 32)
    assert left[:64].eq(1).all() and left[-8:].eq(0).all() and right[:8].eq(0).all()
    torch.testing.assert_close(left[64:] + right[:32], torch.ones(32), rtol=0, atol=1e-6)


@pytest.mark.parametrize('size', [(150, 215), (40, 215), (33, 20)])
def test_blended_tiles_are_the_whole_image_for_a_network_that_looks_not_far(size):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 5, 9, padding=4), torch.nn.Conv2d(5, 4, 9, padding=4)]
    network, image = torch.nn.Sequential(*layers), torch.randn(1, 3, *size)
    shapes = []

    def predict(rows, columns):
        part = image[:, :, slice(*rows), slice(*columns)]
        shapes.append(tuple(part.shape[2:]))
        return network(part)[0]

    with torch.no_grad():
        bands = list(blended_bands(predict, size, 96, 32))
        torch.testing.assert_close(torch.cat(bands, 1), network(image)[0], rtol=0, atol=1e-5)
    assert max(map(max, shapes)) <= 96
    assert all(band.shape[1] <= 96 for band in bands)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('wanted', [(61, 90), (13, 9), (30, 40), (1, 1)])
def test_resizing_in_bands_is_resizing(monkeypatch, wanted, align_corners):
    monkeypatch.setattr('mmseg_semi.functional.tiles._MOST_NUMBERS', 3 * 90 * 7)
    logits = torch.randn(3, 30, 40, generator=torch.Generator().manual_seed(1))
    bands = resized_bands(logits.split([7, 1, 20, 2], 1), (30, 40), wanted, align_corners)
    whole = F.interpolate(logits[None], wanted, mode='bilinear', align_corners=align_corners)[0]
    torch.testing.assert_close(torch.cat(list(bands), 1), whole, rtol=0, atol=1e-5)
