import pytest
import torch
from mmengine.registry import FUNCTIONS

from mmseg_semi.datasets import DataError, semi_collate


def labeled(value):
    return dict(source='labeled', inputs=torch.full((3, 2, 2), value), data_samples=f'l{value}')


def unlabeled(value, views=2):
    strong = [torch.full((3, 2, 2), 10 * view + value) for view in range(1, views + 1)]
    weak = torch.full((3, 2, value), value)
    return dict(source='unlabeled', weak=weak, strong=strong, data_samples=f'u{value}')


def first(images):
    return [int(image.flatten()[0]) for image in images]


def test_batch_of_both_parts():
    assert FUNCTIONS.get('semi_collate') is semi_collate
    batch = semi_collate([labeled(1), unlabeled(3), labeled(2), unlabeled(4), unlabeled(5)])
    assert first(batch['labeled']['inputs']) == [1, 2]
    assert batch['labeled']['data_samples'] == ['l1', 'l2']
    assert first(batch['unlabeled']['weak']) == [3, 4, 5]
    assert batch['unlabeled']['weak'][2].shape == (3, 2, 5)  # images are not stacked
    assert [first(view) for view in batch['unlabeled']['strong']] == [[13, 14, 15], [23, 24, 25]]
    assert batch['unlabeled']['data_samples'] == ['u3', 'u4', 'u5']
    assert list(batch) == ['labeled', 'unlabeled']


def test_absent_parts():
    assert list(semi_collate([labeled(1)])) == ['labeled']
    assert list(semi_collate([unlabeled(1)])) == ['unlabeled']
    assert semi_collate([unlabeled(1, views=0)])['unlabeled']['strong'] == []


def test_wrong_items():
    with pytest.raises(DataError, match=r"keys \['inputs'\].*SemiDataset"):
        semi_collate([dict(inputs=1)])
    with pytest.raises(DataError, match=r'\[1, 2\] strong views'):
        semi_collate([unlabeled(1), unlabeled(2, views=1)])
    with pytest.raises(DataError, match='lacks strong: its pipeline must end with PackSemiInputs'):
        semi_collate([dict(source='unlabeled', weak=1, data_samples=2)])
    with pytest.raises(DataError, match='lacks inputs: its pipeline must end with PackSegInputs'):
        semi_collate([dict(source='labeled', data_samples=2)])
