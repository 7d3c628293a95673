import copy
import logging
import pickle
import random

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader

from mmseg_semi.datasets import DataError, SampleKey, SemiDataset, semi_collate


def build(scenes, labeled=None, unlabeled=None, **arguments):
    return DATASETS.build(
        dict(
            type='SemiDataset',
            labeled=labeled or scenes.labeled(),
            unlabeled=unlabeled or scenes.unlabeled(),
            **arguments,
        )
    )


def pixels(item):
    images = [item['inputs']] if 'inputs' in item else [item['weak'], *item['strong']]
    return [image.numpy() for image in images]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


# ------------------------------------------------------------------------------------ items


def test_items_of_both_parts(scenes):
    dataset = build(scenes)
    assert len(dataset) == 12 and len(dataset.labeled) == 5 and len(dataset.unlabeled) == 7
    assert dataset.metainfo['classes'] == ('ground', 'tree', 'house')
    labeled = dataset[SampleKey('labeled', 2, 0)]
    assert sorted(labeled) == ['data_samples', 'inputs', 'source']
    assert labeled['source'] == 'labeled'
    assert labeled['inputs'].dtype == torch.uint8 and labeled['inputs'].shape[0] == 3
    assert labeled['data_samples'].img_path.endswith('l2.png')
    assert labeled['data_samples'].gt_sem_seg.shape == labeled['inputs'].shape[1:]
    unlabeled = dataset[SampleKey('unlabeled', 6, 0)]
    assert sorted(unlabeled) == ['data_samples', 'source', 'strong', 'weak']
    assert unlabeled['source'] == 'unlabeled' and len(unlabeled['strong']) == 2
    assert isinstance(unlabeled['data_samples'], SegDataSample)
    assert unlabeled['data_samples'].img_path.endswith('u6.png')


def test_integer_keys_count_through_both_parts(scenes):
    dataset = build(scenes)
    assert dataset[4]['data_samples'].img_path.endswith('l4.png')
    assert dataset[5]['data_samples'].img_path.endswith('u0.png')
    for key in (12, -1, SampleKey('labeled', 5, 0)):
        with pytest.raises(IndexError, match='has [57] samples'):
            dataset[key]
    with pytest.raises(ValueError, match="SampleKey.source is 'both'"):
        dataset[SampleKey('both', 0, 0)]


@pytest.mark.parametrize('source', ['labeled', 'unlabeled'])
def test_augmentation_depends_on_the_seed_alone(scenes, source):
    dataset = build(scenes)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = pixels(dataset[SampleKey(source, 1, 123)])
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    dataset[SampleKey(source, 0, 5)]
    assert same(first, pixels(dataset[SampleKey(source, 1, 123)]))
    others = [pixels(dataset[SampleKey(source, 1, seed)]) for seed in range(8)]
    assert not any(same(first, other) for other in others)


def test_random_states_are_put_back_and_cuda_is_not_touched(scenes, monkeypatch):
    drawn = []

    def draw(results):  # uses all three generators
        numpys = np.random.randint(2**32, dtype=np.uint32) % 2**24
        drawn.append((random.random(), int(numpys), torch.randint(2**24, (1,)).item()))
        return results

    unlabeled = scenes.unlabeled()
    unlabeled['pipeline'].insert(1, draw)
    dataset = build(scenes, unlabeled=unlabeled)
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', lambda seed: pytest.fail('CUDA was seeded'))

    def after(load):
        random.seed(3), np.random.seed(3), torch.default_generator.manual_seed(3)
        if load:
            dataset[SampleKey('unlabeled', 0, 77)]
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert after(load=True) == after(load=False)
    dataset[SampleKey('unlabeled', 0, 77)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3  # the generators do not share a stream


def test_random_states_are_put_back_after_an_error(scenes):
    def fail(results):
        raise KeyError('broken')

    unlabeled = scenes.unlabeled(pipeline=[dict(type='LoadImageFromFile'), fail])
    dataset = build(scenes, unlabeled=unlabeled)
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    with pytest.raises(DataError, match=r'unlabeled: a transform failed on image .*u0.png: KeyErr'):
        dataset[SampleKey('unlabeled', 0, 1)]
    assert np.random.rand() == expected


def test_lazy_datasets_are_listed_at_once(scenes):
    labeled = dict(type='RepeatDataset', times=3, lazy_init=True, dataset=scenes.labeled())
    dataset = build(scenes, labeled, scenes.unlabeled(lazy_init=True))
    assert len(dataset) == 22 and len(dataset.unlabeled) == 7
    assert dataset.unlabeled._fully_initialized and dataset.labeled._fully_initialized
    dataset.full_init()
    assert dataset[SampleKey('labeled', 14, 0)]['data_samples'].img_path.endswith('l4.png')


def test_built_datasets_and_copies(scenes):
    configs = scenes.labeled(), scenes.unlabeled(lazy_init=True)
    parts = [DATASETS.build({**config, 'serialize_data': True}) for config in configs]
    dataset = copy.deepcopy(SemiDataset(*parts))
    assert len(dataset) == 12


# ---------------------------------------------------------------------------- labeled checks


def concat(*configs):
    return dict(type='ConcatDataset', datasets=list(configs))


def repeat(config):
    return dict(type='RepeatDataset', times=2, dataset=config)


@pytest.mark.parametrize('wrap', [lambda c: c, concat, repeat, lambda c: repeat(concat(c))])
@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (dict(ann_file='nope.txt'), FileNotFoundError, r'ann_file: the split file .*nope.txt is m'),
        (dict(ann_file='images'), FileNotFoundError, r'ann_file: the split file .*images is a fol'),
        (dict(ann_file='empty.txt'), ValueError, r'ann_file: the split file .*empty.txt names no '),
        (
            dict(ann_file='wrong.txt'),
            ValueError,
            r'7 of 8 samples named in .*wrong.txt have no image: .*x0.png, .*x4.png and 2 more',
        ),
        (dict(ann_file='masks.txt'), ValueError, r'1 of 2 samples .* have no mask: .*masks/l9.png'),
        (
            dict(data_prefix=dict(img_path='images', seg_map_path='no')),
            FileNotFoundError,
            r'data_prefix.seg_map_path: there is no folder .*no ',
        ),
        (dict(data_prefix=dict(img_path='images')), ValueError, 'have no mask: None'),
        (dict(ann_file='', img_suffix='.gif'), ValueError, r"no image was .*'.gif' \(it has 6 f"),
    ],
)  # fmt: skip
def test_labeled_part_is_verified(scenes, wrap, change, error, message):
    (scenes.root / 'empty.txt').write_text(' \n\n')
    scenes.split(['l0', *(f'x{i}' for i in range(7))], 'wrong.txt')
    scenes.image('images/l9.png')
    scenes.split(['l0', 'l9'], 'masks.txt')
    with pytest.raises(error, match=message):
        build(scenes, wrap(scenes.labeled(**change)))


def test_built_labeled_dataset_is_verified(scenes):
    labeled = DATASETS.build(scenes.labeled(lazy_init=True))
    (scenes.root / 'images' / 'l3.png').unlink()
    with pytest.raises(ValueError, match='1 of 5 samples .* have no image: .*l3.png'):
        SemiDataset(labeled, scenes.unlabeled())


def test_a_split_file_is_optional(scenes):
    assert len(build(scenes, scenes.labeled(ann_file='')).labeled) == 5


# ---------------------------------------------------------------------------- build errors


def test_wrong_arguments(scenes):
    with pytest.raises(
        ValueError, match="SemiDataset.on_error must be one of .*'skip'.* got 'ignore'"
    ):
        build(scenes, on_error='ignore')
    with pytest.raises(
        TypeError,
        match="unlabeled: .* BaseSegDataset, .*; use type='Un",
    ):
        build(scenes, unlabeled=scenes.labeled())
    for part in ('labeled', 'unlabeled'):
        config = getattr(scenes, part)()
        config['pipeline'][0]['ignore_empty'] = True
        with pytest.raises(ValueError, match=f'{part}: LoadImageFromFile has ignore_empty=True'):
            build(scenes, **{part: config})
    with pytest.raises(ValueError, match='unlabeled: the dataset has no sample'):
        build(scenes, unlabeled=scenes.unlabeled(indices=[], serialize_data=False))


def test_classes_reach_check_annotations(scenes):
    dataset = build(scenes, repeat(concat(scenes.labeled())))
    leaf = dataset.labeled.dataset.datasets[0]
    assert leaf.pipeline.transforms[2].num_classes == 3
    labeled = scenes.labeled()
    labeled['pipeline'][2]['num_classes'] = 4
    with pytest.raises(ValueError, match=r'labeled: CheckAnnotations has num_classes=4.*3 classes'):
        build(scenes, labeled)


def test_16_bit_images_are_named(scenes, warnings_logged):
    build(scenes)
    assert warnings_logged == []
    scenes.write('unlabeled/u3.png', np.full((32, 40), 4095, np.uint16))
    dataset = build(scenes)
    assert len(warnings_logged) == 1
    assert 'u3.png has more than 8 bits' in warnings_logged[0]
    assert 'value // 256' in warnings_logged[0]
    assert dataset[SampleKey('unlabeled', 3, 0)]['weak'].max() == 15


# ---------------------------------------------------------------------------- broken images


def break_image(scenes, name):
    path = scenes.root / name
    path.write_bytes(path.read_bytes()[:200])


def test_unreadable_image_is_named(scenes):
    dataset = build(scenes)
    break_image(scenes, 'unlabeled/u1.png')
    (scenes.root / 'unlabeled/u2.png').write_text('no image at all')
    (scenes.root / 'images/l0.png').unlink()
    message = r"unlabeled: image .*u1.png can not be read: the file ends too early.*on_error='skip'"
    with pytest.raises(DataError, match=message):
        dataset[SampleKey('unlabeled', 1, 0)]
    with pytest.raises(DataError, match=r'u2.png can not be read: it is no image .*are allowed'):
        dataset[SampleKey('unlabeled', 2, 0)]
    with pytest.raises(DataError, match=r'labeled: image .*l0.png can not be read: FileNotFoundEr'):
        dataset[SampleKey('labeled', 0, 0)]


def test_float_tiff_is_refused(scenes):
    (scenes.root / 'unlabeled/u0.png').unlink()
    cv2.imwrite(str(scenes.root / 'unlabeled/u0.tiff'), np.zeros((32, 40), np.float32))
    with pytest.raises(DataError, match=r'u0.tiff can not be read.*8 or 16 bits are allowed'):
        build(scenes)[SampleKey('unlabeled', 0, 0)]


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    ('source', 'bad'), [('unlabeled', 'unlabeled/u1.png'), ('labeled', 'images/l1.png')]
)
def test_skip_replaces_by_the_next(scenes, workers, source, bad, batches_of):
    dataset = build(scenes, on_error='skip')
    break_image(scenes, bad)
    keys = [SampleKey(source, index, 9) for index in (0, 1, 2, 1)]
    loader = DataLoader(
        dataset, batch_size=1, sampler=keys, num_workers=workers, collate_fn=semi_collate
    )
    batches = batches_of(loader, 4)
    paths = [batch[source]['data_samples'][0].img_path[-5] for batch in batches]
    assert paths == ['0', '2', '2', '2']
    key = 'inputs' if source == 'labeled' else 'weak'
    assert torch.equal(batches[1][source][key][0], batches[2][source][key][0])


def test_skip_names_each_file_once(scenes, warnings_logged):
    dataset = build(scenes, on_error='skip')
    break_image(scenes, 'unlabeled/u5.png')
    break_image(scenes, 'unlabeled/u6.png')
    for _ in range(3):
        item = dataset[SampleKey('unlabeled', 5, 1)]
    assert item['data_samples'].img_path.endswith('u0.png')  # goes on at the beginning
    assert len(warnings_logged) == 2
    assert 'u5.png can not be read' in warnings_logged[0]
    assert 'u6.png can not be read' in warnings_logged[1]


def test_skip_with_no_image_left(scenes):
    dataset = build(scenes, on_error='skip')
    for i in range(7):
        break_image(scenes, f'unlabeled/u{i}.png')
    with pytest.raises(DataError, match='unlabeled: none of the 7 images can be read'):
        dataset[SampleKey('unlabeled', 3, 0)]


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (np.full((32, 40), 7), r'values that are no class: 7 \(1280 pixels\)'),
        (np.zeros((30, 40)), r'the mask is 30 x 40, the image 32 x 40'),
        (None, r'mask .*l1.png of image .*l1.png can not be read: UnidentifiedImageError'),
    ],
)
@pytest.mark.parametrize('workers', [0, 1])
def test_wrong_masks_are_never_skipped(scenes, mask, message, workers, batches_of):
    dataset = build(scenes, on_error='skip')
    if mask is None:
        (scenes.root / 'masks/l1.png').write_bytes(b'garbage')
    else:
        scenes.mask('masks/l1.png', mask)
    loader = DataLoader(
        dataset,
        batch_size=1,
        sampler=[SampleKey('labeled', 1, 0)],
        num_workers=workers,
        collate_fn=semi_collate,
    )
    with pytest.raises(DataError, match=message) as caught:
        batches_of(loader, 1)
    if not workers:  # our own errors name the files already
        assert ('can not be read' in str(caught.value)) == (mask is None)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_warning_of_a_worker_reaches_the_log(scenes, capfd, batches_of):
    logger = MMLogger.get_instance('skip-test', logger_name='skip-test')
    assert logger.level <= logging.WARNING
    dataset = build(scenes, on_error='skip')
    break_image(scenes, 'unlabeled/u1.png')
    keys = [SampleKey('unlabeled', 1, 0)]
    loader = DataLoader(dataset, sampler=keys, num_workers=1, collate_fn=semi_collate)
    batches_of(loader, 1)
    assert 'u1.png can not be read' in ''.join(capfd.readouterr())
