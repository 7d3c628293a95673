"""Pipelines that SemiDataset composes of named parts."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from scene_files import STRONG, WEAK

from mmseg_semi.datasets import DataError, SampleKey, SemiDataset, semi_collate
from mmseg_semi.datasets.dataset_tree import nested_transforms, pipeline_transforms
from mmseg_semi.datasets.transforms import RandomPaddedCrop, RandomRelativeResize

GEOMETRY = dict(zip(('resize', 'crop', 'flip'), WEAK), order=('resize', 'crop', 'flip'))
VIEWS = dict(num_views=2, transforms=STRONG)


def build(scenes, labeled=None, unlabeled=None, geometry=GEOMETRY, **arguments) -> SemiDataset:
    """A dataset whose parts have no pipeline of their own."""
    config = dict(
        type='SemiDataset',
        labeled=scenes.labeled(pipeline=None) if labeled is None else labeled,
        unlabeled=plain(scenes, strong=VIEWS) if unlabeled is None else unlabeled,
        geometry=geometry,
        **arguments,
    )
    return DATASETS.build(config)


def plain(scenes, **changes) -> dict[str, Any]:
    return scenes.unlabeled(pipeline=None, **changes)


def kinds(dataset) -> list[str]:
    return [type(transform).__name__ for transform in pipeline_transforms(dataset)]


def items(dataset) -> list[torch.Tensor]:
    """Every tensor of every sample, at one seed."""
    found = []
    for source, count in (('labeled', 5), ('unlabeled', 7)):
        for index in range(count):
            item = dataset[SampleKey(source, index, 20 + index)]
            sample = item['data_samples']
            found += [item['inputs']] if source == 'labeled' else [item['weak'], *item['strong']]
            found += [sample.gt_sem_seg.data if source == 'labeled' else sample.valid.data]
    return found


def same(a, b) -> bool:
    return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b))


def test_the_composed_pipelines_give_what_written_out_ones_give(scenes):
    written = SemiDataset(scenes.labeled(), scenes.unlabeled())
    composed = build(scenes)
    assert kinds(composed.labeled) == kinds(written.labeled)
    assert kinds(composed.unlabeled) == [
        'LoadImageFromFile',
        'InitValidMask',
        'CarryMaps',
        'StrongViews',
        'PackSemiInputs',
    ]
    assert same(items(composed), items(written))
    assert same(items(build(scenes, geometry=WEAK)), items(written))  # a list does as well


def test_entries_that_are_none_are_left_out(scenes):
    without = build(scenes, geometry=dict(GEOMETRY, flip=None))
    names = kinds(without.labeled)
    assert 'RandomFlip' not in names and 'RandomCrop' in names
    carry = without.unlabeled.pipeline.transforms[2]
    assert [type(one).__name__ for one in carry.transforms] == ['RandomResize', 'RandomCrop']
    bare = build(scenes, unlabeled=plain(scenes), geometry=None)
    assert kinds(bare.unlabeled) == ['LoadImageFromFile', 'InitValidMask', 'PackSemiInputs']
    item = bare[SampleKey('unlabeled', 0, 0)]
    assert item['strong'] == [] and item['weak'].shape == (3, 32, 40)
    assert 'crop_size' not in item['data_samples'].metainfo


@pytest.mark.parametrize('strong', [None, {}, dict(num_views=0, transforms=STRONG)])
def test_no_strong_views(scenes, strong):
    dataset = build(scenes, unlabeled=plain(scenes, strong=strong))
    assert dataset[SampleKey('unlabeled', 0, 0)]['strong'] == []


@pytest.mark.parametrize('strong', [dict(transforms=None), dict(num_views=2, transforms={})])
def test_strong_views_without_photometry(scenes, strong):
    dataset = build(scenes, unlabeled=plain(scenes, strong=strong))
    item = dataset[SampleKey('unlabeled', 0, 0)]
    assert len(item['strong']) == strong.get('num_views', 1)
    assert all(torch.equal(view, item['weak']) for view in item['strong'])


def test_strong_views_are_named_too(scenes):
    transforms = dict(gray=None, color=dict(type='RandomColorJitter'))  # one needs no order
    dataset = build(scenes, unlabeled=plain(scenes, strong=dict(transforms=transforms)))
    (views,) = [t for t in pipeline_transforms(dataset.unlabeled) if hasattr(t, 'num_views')]
    assert views.num_views == 1 and [type(t).__name__ for t in views.transforms] == [
        'RandomColorJitter'
    ]
    with pytest.raises(TypeError, match=r"unlabeled.strong: StrongViews .*'num_view'.*num_views"):
        build(scenes, unlabeled=plain(scenes, strong=dict(num_view=1, transforms=STRONG)))


def test_a_part_with_a_geometry_of_its_own(scenes):
    crop = dict(crop=dict(type='RandomCrop', crop_size=(16, 20)))
    dataset = build(scenes, unlabeled=plain(scenes, geometry=crop))
    assert dataset[SampleKey('unlabeled', 0, 0)]['weak'].shape == (3, 16, 20)
    assert dataset[SampleKey('labeled', 0, 4)]['inputs'].shape[-2:] != (16, 20)
    # The larger crop of both parts, in each direction.
    assert dataset[SampleKey('labeled', 0, 0)]['data_samples'].crop_size == (24, 24)
    dataset = build(scenes, labeled=scenes.labeled(pipeline=None, geometry=crop))
    assert dataset[SampleKey('labeled', 0, 0)]['inputs'].shape == (3, 16, 20)


def test_wrapped_datasets(scenes):
    crop = dict(crop=dict(type='RandomCrop', crop_size=(16, 20)))
    inner = scenes.labeled(pipeline=None)
    labeled = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset', datasets=[inner, dict(inner, geometry=crop), scenes.labeled()]
        ),
    )
    first, second = plain(scenes, strong=VIEWS), plain(scenes, strong=VIEWS)
    unlabeled = dict(type='ConcatDataset', geometry=crop, datasets=[first, second])
    given = copy.deepcopy((labeled, unlabeled))
    dataset = build(scenes, labeled, unlabeled)
    assert (labeled, unlabeled) == given  # configs are left as they are
    assert len(dataset.labeled) == 30 and len(dataset.unlabeled) == 14
    leaves = dataset.labeled.dataset.datasets
    assert kinds(leaves[0]) == kinds(leaves[2]) and len(kinds(leaves[1])) == 5
    assert dataset[SampleKey('labeled', 5, 0)]['inputs'].shape == (3, 16, 20)
    for index in (0, 13):
        assert dataset[SampleKey('unlabeled', index, 0)]['weak'].shape == (3, 16, 20)


def test_what_would_have_no_effect_is_refused(scenes):
    crop = dict(crop=dict(type='RandomCrop', crop_size=(16, 20)))
    for part in ('labeled', 'unlabeled'):
        own = getattr(scenes, part)(geometry=crop)
        with pytest.raises(ValueError, match=f'{part}.pipeline replaces {part}.geometry'):
            build(scenes, **{part: own})
    message = 'unlabeled.pipeline replaces unlabeled.strong, unlabeled.maps'
    with pytest.raises(ValueError, match=message):
        build(scenes, unlabeled=scenes.unlabeled(strong=VIEWS, maps=dict(a=dict(type='B'))))
    with pytest.raises(ValueError, match='geometry of SemiDataset has no effect'):
        build(scenes, scenes.labeled(), scenes.unlabeled())
    build(scenes, scenes.labeled())  # the other part uses it
    with pytest.raises(ValueError, match=r"geometry\.corp is .* no 'type'\. Did you mean 'crop'"):
        build(scenes, geometry=dict(GEOMETRY, corp=dict(crop_size=(16, 16))))
    turn = dict(type='RandomRotate', prob=0.5, degree=10.0)
    with pytest.raises(ValueError, match=r'geometry\.turn does not stand in geometry\.order'):
        build(scenes, geometry=dict(GEOMETRY, turn=turn))
    with pytest.raises(ValueError, match=r'geometry\.crop does not stand in .* None: name there'):
        build(scenes, geometry={**GEOMETRY, 'order': None})
    with pytest.raises(
        ValueError, match=r"geometry\.order names 'flip' more than once.*second name"
    ):
        build(scenes, geometry=dict(GEOMETRY, order=('flip', 'resize', 'crop', 'flip')))
    color = dict(color=dict(type='RandomColorJitter'), order=('color', 'color'))
    with pytest.raises(
        ValueError, match=r"StrongViews\.transforms\.order names 'color' more than once"
    ):
        build(scenes, unlabeled=plain(scenes, strong=dict(transforms=color)))


@pytest.mark.parametrize(
    ('looks', 'named'),
    [
        (dict(type='RandomCrop', cat_max_ratio=0.75), r'RandomCrop\.cat_max_ratio is 0\.75'),
        (dict(type='ClassBalancedCrop', prob=0.5), r'ClassBalancedCrop\.prob is 0\.5'),
    ],
)
@pytest.mark.parametrize('written', [True, False])
def test_a_crop_that_looks_at_classes_is_refused_for_unlabeled_images(
    scenes, written, looks, named
):
    looks = dict(looks, crop_size=(24, 24))
    if written:
        part = scenes.unlabeled()
        part['pipeline'][3] = looks
        arguments = dict(unlabeled=part)
    else:
        arguments = dict(geometry=dict(GEOMETRY, crop=looks))
    with pytest.raises(ValueError, match=f'unlabeled: {named}'):
        build(scenes, **arguments)
    build(
        scenes,
        unlabeled=plain(scenes, geometry=GEOMETRY),
        geometry=dict(GEOMETRY, crop=looks),
    )


# ------------------------------------------------------------------------------------ inheritance
def child_of(tmp_path: Path, text: str) -> Config:
    base = dict(train_dataloader=dict(dataset=dict(geometry=GEOMETRY)))
    Config(base).dump(str(tmp_path / 'base.py'))
    (tmp_path / 'child.py').write_text(f"_base_ = './base.py'\n{text}")
    return Config.fromfile(str(tmp_path / 'child.py'))


def test_what_a_base_has_taken_out_comes_back_with_delete(tmp_path):
    (tmp_path / 'base.py').write_text('geometry = dict(flip=None)\n')
    for text, back in (("_delete_=True, type='RandomFlip'", True), ("type='RandomFlip'", False)):
        child = tmp_path / 'child.py'
        child.write_text(f"_base_ = './base.py'\ngeometry = dict(flip=dict({text}))\n")
        if back:
            assert Config.fromfile(str(child)).geometry.flip == dict(type='RandomFlip')
        else:
            with pytest.raises(TypeError, match='_delete_=True'):
                Config.fromfile(str(child))


def test_a_child_config_changes_entries_by_name(scenes, tmp_path):
    child = child_of(
        tmp_path,
        'train_dataloader = dict(dataset=dict(geometry=dict(\n'
        '    crop=dict(crop_size=(18, 22)), flip=None,\n'
        "    resize=dict(_delete_=True, type='RandomRelativeResize', ratio_range=(0.5, 0.9)),\n"
        "    order=('turn', 'resize', 'crop', 'flip'),\n"
        "    turn=dict(type='RandomRotate', prob=0.5, degree=10.0))))\n",
    )
    child.dump(str(tmp_path / 'written.py'))  # mmengine sorts the keys
    for config in (child, Config.fromfile(str(tmp_path / 'written.py'))):
        dataset = build(scenes, geometry=config.train_dataloader.dataset.geometry)
        names = ['RandomRotate', 'RandomRelativeResize', 'RandomCrop']
        assert kinds(dataset.labeled)[3:-1] == names
    assert dataset.labeled.pipeline.transforms[5].crop_size == (18, 22)
    sizes = {tuple(dataset[SampleKey('labeled', 0, seed)]['inputs'].shape[1:]) for seed in range(9)}
    assert max(sizes) == (18, 22)


# --------------------------------------------------------------------------------- labeled alone
def test_labeled_images_alone(scenes):
    dataset = build(scenes)
    alone = SemiDataset(scenes.labeled(pipeline=None), None, geometry=GEOMETRY)
    assert len(alone) == len(alone.labeled) == 5 and alone.unlabeled is None
    key = SampleKey('labeled', 3, 8)
    assert torch.equal(alone[key]['inputs'], dataset[key]['inputs'])
    for wrong, error in ((5, IndexError), (SampleKey('unlabeled', 0, 0), ValueError)):
        with pytest.raises(error):
            alone[wrong]


# ----------------------------------------------------------------------------- crop in one place
def preprocessor(**arguments):
    config = dict(type='SemiDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3, **arguments)
    return MODELS.build(config)


SMALL = dict(
    order=('resize', 'crop'),
    resize=dict(type='Resize', scale=(25, 20), keep_ratio=True),
    crop=dict(type='RandomCrop', crop_size=(24, 27)),
)


def small(scenes) -> SemiDataset:
    """Images of at most 20 x 25 and a crop of 24 x 27."""
    return build(scenes, geometry=SMALL)


def batch_of(dataset):
    keys = [SampleKey(s, i, 0) for s in ('labeled', 'unlabeled') for i in range(2)]
    return semi_collate([dataset[key] for key in keys])


def test_batches_are_padded_to_the_crop(scenes):
    prepared = preprocessor()(batch_of(small(scenes)), True)
    inputs = prepared['inputs']
    for images in (inputs['labeled'], inputs['weak'], *inputs['strong'], inputs['valid']):
        assert images.shape[-2:] == (24, 27)
    assert prepared['data_samples']['labeled'][0].gt_sem_seg.shape == (24, 27)
    assert inputs['valid'].sum() == 2 * 20 * 25
    for arguments, size in ((dict(size_divisor=16), (32, 32)), (dict(size=(30, 31)), (30, 31))):
        prepared = preprocessor(**arguments)(batch_of(small(scenes)), True)
        assert prepared['inputs']['weak'].shape[-2:] == size
    with pytest.raises(ValueError, match=r'data_preprocessor\.size is \(16, 16\).*leave size out'):
        preprocessor(size=(16, 16))(batch_of(small(scenes)), True)


def test_batches_of_labeled_images_alone_are_padded_to_the_crop(scenes):
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='SemiSampler', batch_size=2),
        dataset=SemiDataset(scenes.labeled(pipeline=None), None, geometry=SMALL),
    )
    (batch,) = itertools.islice(Runner.build_dataloader(loader, seed=0), 1)
    given = preprocessor()
    prepared = given(copy.deepcopy(batch), True)
    assert prepared['inputs'].shape == (2, 3, 24, 27) and given.size is None
    assert prepared['data_samples'][0].gt_sem_seg.shape == (24, 27)
    plain = MODELS.build(
        dict(type='SegDataPreProcessor', mean=[100.0] * 3, std=[50.0] * 3, size=(24, 27))
    )
    assert torch.equal(plain(batch, True)['inputs'], prepared['inputs'])


# ------------------------------------------------------------------------------ maps of strangers
@TRANSFORMS.register_module()
class LoadRows(BaseTransform):
    """Number of each pixel's row and whether it is on the left, as a user's transform adds it."""

    def prepare(self, classes, paths):
        self.prepared = classes, [Path(path).name for path in paths]

    def transform(self, results):
        rows, columns = np.mgrid[: results['img'].shape[0], : results['img'].shape[1]]
        results['rows'] = np.stack([rows + 1.0, columns < 20], axis=-1).astype(np.float32)
        results['seg_fields'].append('rows')
        return results


def test_a_map_of_a_user_reaches_the_model(scenes):
    maps = dict(rows=dict(type='LoadRows'), nothing=None)
    flip = [dict(type='RandomFlip', prob=1.0), dict(type='Pad', size=(44, 40))]
    dataset = build(scenes, unlabeled=plain(scenes, maps=maps), geometry=flip)
    (load,) = [t for t in pipeline_transforms(dataset.unlabeled) if isinstance(t, LoadRows)]
    assert load.prepared == (('ground', 'tree', 'house'), [f'u{i}.png' for i in range(7)])
    inputs = preprocessor(size=(45, 50))(batch_of(dataset), True)['inputs']
    assert set(inputs['maps']) == {'rows'}
    rows = inputs['maps']['rows']
    assert rows.shape == (2, 2, 45, 50) and rows.dtype == torch.float32
    assert torch.equal(rows[0, 0, :32, 0], torch.arange(1.0, 33.0))
    assert torch.equal(rows[1, 1, 5, :40], (torch.arange(40) >= 20).float())
    assert not rows[:, :, 32:].any() and not rows[..., 40:].any()
    assert preprocessor()(batch_of(build(scenes)), True)['inputs']['maps'] == {}


def test_a_batch_of_which_some_images_lack_a_map_is_refused(scenes):
    parts = [plain(scenes, maps=dict(rows=dict(type='LoadRows')), indices=1), plain(scenes)]
    unlabeled = dict(type='ConcatDataset', datasets=parts)
    with pytest.raises(ValueError, match="have the map 'rows' and some do not"):
        preprocessor(size=(64, 80))(batch_of(build(scenes, unlabeled=unlabeled)), True)


def test_a_map_of_another_size_is_refused(scenes):
    def wrong(results):
        return dict(results, half=np.zeros((16, 20)), seg_fields=[*results['seg_fields'], 'half'])

    dataset = build(scenes, unlabeled=plain(scenes, maps=[wrong]))
    with pytest.raises(DataError, match=r"'half' of .*u0.png is \(16, 20\), the image \(32, 40\)"):
        dataset[SampleKey('unlabeled', 0, 0)]


def test_only_what_the_crop_keeps_is_resized(scenes):
    geometry = dict(
        order=('resize', 'crop', 'flip'),
        resize=dict(type='RandomRelativeResize', backend='pillow'),
        crop=dict(type='RandomPaddedCrop', crop_size=(16, 16)),
        flip=dict(type='RandomFlip', prob=0.5),
    )
    dataset = build(scenes, geometry=geometry)
    for leaf in (dataset.labeled, dataset.unlabeled):
        found = list(nested_transforms(leaf.pipeline.transforms))
        (resize,) = (one for one in found if isinstance(one, RandomRelativeResize))
        (crop,) = (one for one in found if isinstance(one, RandomPaddedCrop))
        assert resize.crop is crop
