"""Run lengths and polygons of COCO's files."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmseg_semi.errors import DataError
from mmseg_semi.prepare.instances import Instances, encode_runs, rasterize

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')


@pytest.mark.parametrize('share', [0, 0.02, 0.5, 0.98, 1])
def test_run_lengths_of_pycocotools_and_our_own(share):
    inside = np.random.default_rng(0).random((37, 300)) < share
    canvas = Instances('x', 37, 300, [])
    runs = coco_mask.encode(np.asfortranarray(inside, np.uint8))
    np.testing.assert_array_equal(rasterize(runs, canvas), inside)
    np.testing.assert_array_equal(rasterize(encode_runs(inside), canvas), inside)


@pytest.mark.parametrize(
    'counts', ['', 'abc', 'P', b'0' * 5, [6, -1, 1], [7], [2**70], 'o' * 99, [None], 5]
)
def test_broken_run_lengths_are_refused(counts):
    """Some of them write beyond the memory of pycocotools."""
    with pytest.raises(DataError, match='^x: '):
        rasterize(dict(size=[2, 3], counts=counts), Instances('x', 2, 3, []))


@pytest.mark.parametrize('far', [1e9, float('nan'), float('inf'), -1e5])
def test_polygons_far_outside_are_refused(far):
    with pytest.raises(DataError, match='^x: a polygon has the coordinate'):
        rasterize([[0, 0, far, 0, 2, 2]], Instances('x', 2, 3, []))
