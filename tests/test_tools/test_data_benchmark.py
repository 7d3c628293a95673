"""The benchmark of data, and that its two sides are the same pipelines."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from scipy.stats import ks_2samp
from tool_runs import load_tool

from mmseg_semi.datasets import SampleKey

tool = load_tool('benchmarks/data.py')


def test_the_table(tmp_path):
    out = tmp_path / 'data.md'
    tool.main(['--scale', '0.1', '--images', '2', '--repeats', '1', '--out', str(out)])
    text = out.read_text()
    rows = [line for line in text.splitlines() if line.startswith('| `')]
    assert len(rows) == 12 and all(f'| `{name}` |' in text for name in ('voc12', 'cityscapes'))
    assert sum('OpenCV, cached' in row for row in rows) == 4
    assert text.count('>= 6x') == text.count('>= 4x') == 4
    assert 'RandomColorJitter' in text and 'Cached' in text and 'besides' in text


@pytest.mark.parametrize(
    ('option', 'text'),
    [
        (['--images', '0'], '--images must be at least 1, got 0'),
        (['--scale', '2'], '--scale must be from 0.05 to 1, got 2.0'),
        (['--scale', '0.001'], '--scale must be from 0.05 to 1, got 0.001'),
        (['--out', 'no/folder/x.md'], 'its folder does not exist'),
    ],
)
def test_wrong_options(option, text, capsys):
    with pytest.raises(SystemExit) as error:
        tool.parse_args(option)
    assert error.value.code == 2 and text in capsys.readouterr().err


# ---------------------------------------------------------------- both sides draw the same things

COUNT = 300


def figures(images, valid):
    """What a distribution is compared by: the share of known pixels, and moments of the images."""
    found = dict(known=valid.mean())
    for name, image in images.items():
        pixels = image[:, valid]
        found[f'{name} mean'] = pixels.mean()
        found[f'{name} spread'] = pixels.std()
        found[f'{name} color'] = pixels.std(0).mean()
        found[f'{name} detail'] = np.abs(np.diff(image, axis=-1)).mean()
    return found


@pytest.fixture(scope='module')
def ways(tmp_path_factory):
    """Figures of many samples by way: the reference and ours, on one image."""
    root = tmp_path_factory.mktemp('data')
    args = tool.parse_args(['--scale', '0.2'])
    tool.make_images(root, (75, 100), '.jpg', 1)
    random.seed(0)
    found = dict(reference=[], ours=[], pillow=[])
    for _ in range(COUNT):
        weak, views, label = tool.reference_item(root, '000', 'voc12', 'unlabeled', args)
        images = dict(weak=weak, first=views[0], second=views[1])
        back = {
            name: (one * tool.STD[:, None, None] + tool.MEAN[:, None, None]).numpy() * 255
            for name, one in images.items()
        }
        found['reference'].append(figures(back, label.numpy() == 0))
    with DefaultScope.overwrite_default_scope('mmseg'):
        for way in ('ours', 'pillow'):
            dataset = tool.make_dataset(root, 'voc12', way == 'pillow', False, args)
            for seed in range(COUNT):
                item = dataset[SampleKey('unlabeled', 0, seed)]
                images = dict(zip(('weak', 'first', 'second'), [item['weak'], *item['strong']]))
                images = {name: one.flip(0).float().numpy() for name, one in images.items()}
                found[way].append(figures(images, item['data_samples'].valid.data[0].numpy()))
    return {
        way: {name: np.array([one[name] for one in samples]) for name in samples[0]}
        for way, samples in found.items()
    }


@pytest.mark.parametrize('way', ['ours', 'pillow'])
def test_both_sides_have_the_same_statistics(ways, way):
    assert len(ways['reference']) == 13
    for name, values in ways['reference'].items():
        assert ks_2samp(values, ways[way][name]).pvalue > 0.001, name


def test_other_statistics_are_found(ways):
    for name, values in ways['reference'].items():
        shifted = values + values.std()
        assert ks_2samp(values, shifted).pvalue < 1e-6, name


def test_parts_of_an_image_are_counted_once(tmp_path):
    tool.make_images(tmp_path, (40, 50), '.jpg', 2)
    args = tool.parse_args(['--scale', '0.1'])
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = tool.make_dataset(tmp_path, 'voc12', False, False, args)
        parts = tool.split(dataset, 'unlabeled', 2)
        assert {'LoadImageFromFile', 'StrongViews', 'RandomColorJitter', 'besides'} <= parts.keys()
        assert all(seconds >= 0 for seconds in parts.values())
        tool.load_all(dataset, 'labeled', itertools.count())
    assert torch.is_tensor(dataset[SampleKey('labeled', 0, 0)]['inputs'])
