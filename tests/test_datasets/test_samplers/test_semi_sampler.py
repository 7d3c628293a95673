import functools
import itertools

import numpy as np
import pytest
import torch
from mmseg.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import DataLoader

from mmseg_semi.datasets import SampleKey, SemiSampler, semi_collate
from mmseg_semi.datasets.samplers import semi_sampler


@pytest.fixture
def dataset(scenes):
    """5 labeled, 7 unlabeled."""
    return DATASETS.build(
        dict(type='SemiDataset', labeled=scenes.labeled(), unlabeled=scenes.unlabeled())
    )


@pytest.fixture
def make(dataset, monkeypatch):
    def make(rank=0, world=1, **arguments):
        monkeypatch.setattr(semi_sampler, 'get_dist_info', lambda: (rank, world))
        return SemiSampler(dataset, **{**dict(batch_size=4, seed=11), **arguments})

    return make


def indices(keys, source):
    return [key.index for key in keys if key.source == source]


def stream(sampler, iterations, source):
    return [i for t in range(iterations) for i in indices(sampler.batch_keys(t), source)]


def test_layout_of_a_batch(make):
    sampler = make(batch_size=6, ratio=(1, 2))
    keys = list(itertools.islice(iter(sampler), 12))
    assert [key.source for key in keys] == (['labeled'] * 2 + ['unlabeled'] * 4) * 2
    assert keys == sampler.batch_keys(0) + sampler.batch_keys(1)
    assert sampler.samples_per_batch == dict(labeled=2, unlabeled=4)
    assert all(type(key) is SampleKey and type(key.index) is int for key in keys)
    sampler.set_epoch(3)
    assert list(itertools.islice(iter(sampler), 12)) == keys


def test_epoch_is_one_pass_over_the_unlabeled_images(make):
    sampler = make()  # 2 of 7 an iteration: 4 iterations, the last one filled up
    assert sampler.iters_per_epoch == 4 and len(sampler) == 16
    epochs = [stream(sampler, 8, 'unlabeled')[i : i + 8] for i in (0, 8)]
    for epoch in epochs:
        assert sorted(epoch[:7]) == list(range(7))
        assert epoch[7] == epoch[0]  # from the beginning of the same permutation
    assert epochs[0] != epochs[1]


def test_labeled_images_are_a_stream_of_permutations(make):
    drawn = stream(make(), 15, 'labeled')  # 30 = 6 passes
    passes = [drawn[i : i + 5] for i in range(0, 30, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_order_is_that_of_the_documented_seed_sequence(make):
    def order(source, turn, size):
        return np.random.default_rng(np.random.SeedSequence([11, source, turn])).permutation(size)

    sampler = make()
    assert stream(sampler, 2, 'labeled')[:4] == list(order(0, 0, 5)[:4])
    assert indices(sampler.batch_keys(2), 'labeled') == [order(0, 0, 5)[4], order(0, 1, 5)[0]]
    assert indices(sampler.batch_keys(5), 'unlabeled') == list(order(1, 1, 7)[2:4])


def test_more_images_in_a_batch_than_there_are(make):
    sampler = make(batch_size=32)  # 16 of each part
    assert sampler.iters_per_epoch == 1
    drawn = indices(sampler.batch_keys(0), 'unlabeled')
    assert drawn[:7] * 2 + drawn[:2] == drawn and sorted(drawn[:7]) == list(range(7))


@pytest.mark.parametrize('world', [2, 3])
def test_ranks_are_slices_of_one_global_batch(make, world):
    ranks = [make(rank, world, batch_size=4) for rank in range(world)]
    single = make(batch_size=4 * world)
    assert all(rank.iters_per_epoch == single.iters_per_epoch for rank in ranks)
    for iteration in range(25):
        together = [key for rank in ranks for key in rank.batch_keys(iteration)]
        for source in ('labeled', 'unlabeled'):
            assert [k for k in together if k.source == source] == [
                k for k in single.batch_keys(iteration) if k.source == source
            ]


def test_every_sample_has_a_seed_of_its_own(make):
    sampler, other = make(), make(seed=12)
    keys = [key for t in range(50) for key in sampler.batch_keys(t)]
    assert len({key.seed for key in keys}) == 200
    assert not {k.seed for k in other.batch_keys(0)} & {k.seed for k in keys}


def test_position_and_seed(make):
    sampler = make()
    sampler.set_position(6)
    assert next(iter(sampler)) == make().batch_keys(6)[0]
    sampler.set_position(3, seed=99)
    assert next(iter(sampler)) == make(seed=99, start_iter=3).batch_keys(3)[0]
    sampler.batch_keys(0)
    sampler.set_position(0, seed=5)
    assert sampler.batch_keys(0) == make(seed=5).batch_keys(0)
    assert make(seed=None).seed >= 0
    with pytest.raises(ValueError, match='iteration must be a whole number >= 0, got -1'):
        sampler.set_position(-1)


def test_labeled_images_alone_are_those_beside_unlabeled_ones(make, scenes, monkeypatch):
    alone = DATASETS.build(dict(type='SemiDataset', labeled=scenes.labeled(), unlabeled=None))
    for rank, world in ((0, 1), (1, 2)):
        beside = make(rank, world)  # 2 + 2
        labeled = SemiSampler(alone, batch_size=2, seed=11)
        for iteration in range(9):
            keys = beside.batch_keys(iteration)
            assert labeled.batch_keys(iteration) == keys[:2]
    labeled = SemiSampler(alone, batch_size=3, seed=11)
    monkeypatch.setattr(labeled, 'world_size', 1)
    assert labeled.samples_per_batch == dict(labeled=3, unlabeled=0)
    assert labeled.iters_per_epoch == 2 and len(labeled) == 6  # 3 of 5, an odd number


# ---------------------------------------------------------------------------- through DataLoader


@pytest.fixture
def load(dataset, batches_of):
    return functools.partial(load_batches, dataset, batches_of)


def load_batches(dataset, batches_of, workers, start, stop):
    sampler = SemiSampler(dataset, batch_size=4, seed=7)
    loader = DataLoader(dataset, 4, sampler=sampler, num_workers=workers, collate_fn=semi_collate)
    assert len(loader) == 4
    sampler.set_position(start)
    return batches_of(loader, stop - start)


def tensors(batch):
    labeled, unlabeled = batch['labeled'], batch['unlabeled']
    masks = [sample.gt_sem_seg.data for sample in labeled['data_samples']]
    valid = [sample.valid.data for sample in unlabeled['data_samples']]
    return [
        *labeled['inputs'], *masks, *unlabeled['weak'], *sum(unlabeled['strong'], []), *valid
    ]  # fmt: skip


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected):
        pairs = list(zip(tensors(one), tensors(other)))
        assert len(pairs) == 2 + 2 + 2 + 4 + 2
        assert all(torch.equal(a, b) for a, b in pairs)


def test_resume_in_the_middle_of_an_epoch_with_any_number_of_workers(load):
    torch.manual_seed(0)
    whole = load(0, 0, 7)
    for workers in (0, 1, 2):
        torch.manual_seed(workers + 1)  # what the process drew before must not matter
        assert_same(load(workers, 2, 7), whole[2:])
    assert_same(load(2, 0, 3), whole[:3])
    with pytest.raises(AssertionError):
        assert_same(whole[:5], whole[2:])  # the comparison can tell batches apart


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ('batch_size', 'fitting'), [(4, '3 or 6'), (1, '3'), (0, '3'), (8, '6 or 9')]
)
def test_batch_size_that_does_not_fit_the_ratio(make, batch_size, fitting):
    message = rf'batch_size is {batch_size},.*multiple of 3.*Set batch_size to {fitting}, or'
    with pytest.raises(ValueError, match=message):
        make(ratio=(1, 2), batch_size=batch_size)


def test_batch_size_from_the_loop(make):
    sampler = make(batch_size=None)
    for use in (iter, len, lambda s: s.iters_per_epoch):
        with pytest.raises(RuntimeError, match='does not know the batch size.*SemiTrainLoop'):
            use(sampler)
    sampler.set_batch_size(2)
    assert len(sampler) == 14


@pytest.mark.parametrize('ratio', [(1,), (0, 1), (1, 1.5), (1, -1)])
def test_wrong_ratio(make, ratio):
    with pytest.raises(
        ValueError, match='SemiSampler.ratio must be a (list of 2|whole number >= 1)'
    ):
        make(ratio=ratio)


def test_wrong_dataset():
    with pytest.raises(TypeError, match='SemiSampler needs a SemiDataset, got list'):
        DATA_SAMPLERS.build(dict(type='SemiSampler', dataset=[1, 2]))
