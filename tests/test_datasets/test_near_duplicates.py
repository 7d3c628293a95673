"""Perceptual hashes: all pairs that differ in few bits are found, by tables."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_semi.datasets import near_duplicates
from mmseg_semi.datasets.near_duplicates import MOST_BITS, Looks, _candidates, find_similar


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def flipped(rng, words: np.ndarray, count: int) -> np.ndarray:
    """Change so many of the 64 bits of each hash, uint16 (N, 4)."""
    bits = np.unpackbits(words.view(np.uint8), axis=1)
    for row in bits:
        row[rng.choice(64, count, replace=False)] ^= 1
    return np.packbits(bits, axis=1).view(np.uint16)


@pytest.mark.parametrize('pairs', [1 << 18, 50])  # at once
def test_all_pairs_of_few_bits_are_found(pairs, monkeypatch):
    monkeypatch.setattr(near_duplicates, '_PAIRS', pairs)
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 1 << 16, (300, 4), np.uint16)
    theirs[100:130] = theirs[0]  # many that are alike
    ours = np.concatenate([flipped(rng, theirs[:60], count) for count in range(12)])
    pairs = _candidates(ours, theirs, np.ones(len(ours), bool))
    found = {(int(a), int(b)) for mine, other, _ in pairs for a, b in zip(mine, other)}
    bits = np.unpackbits((ours[:, None] ^ theirs[None]).view(np.uint8), axis=2).sum(axis=2)
    assert found == {(int(a), int(b)) for a, b in zip(*np.nonzero(bits <= MOST_BITS))}
    assert {bits[pair] for pair in found} == set(range(MOST_BITS + 1))


def test_many_images_that_are_all_alike_take_no_time(tmp_path, monkeypatch):
    paths = scenes(tmp_path, 2)
    same = Looks([saved(paths[0], tmp_path, lambda one: one) for _ in range(300)])
    others, tried = Looks(paths), []
    monkeypatch.setattr(near_duplicates, '_alike', lambda *pair: tried.append(pair) or True)
    assert find_similar(same, others) == dict.fromkeys(same.paths, paths[0])
    assert len(tried) == 300
    assert len(find_similar(others, same)) == 1 and len(tried) == 301


def scenes(folder, count: int) -> list[str]:
    """Images of smooth color, no two alike."""
    rng, paths = np.random.default_rng(1), []
    for i in range(count):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        path = str(folder / f'{i}.png')
        Image.fromarray(cv2.resize(small, (120, 90), interpolation=cv2.INTER_CUBIC)).save(path)
        paths.append(path)
    return paths


def saved(path: str, folder, change, **options) -> str:
    other = str(folder / f'other-{len(list(folder.iterdir()))}.jpg')
    change(Image.open(path)).convert('RGB').save(other, **options)
    return other


def test_an_image_saved_anew_is_found_among_others(tmp_path):
    paths = scenes(tmp_path, 40)
    noise = np.random.default_rng(2).normal(0, 6, (90, 120, 3))
    again = {
        saved(paths[3], tmp_path, lambda one: one, quality=30): paths[3],
        saved(paths[7], tmp_path, lambda one: one.resize((60, 45))): paths[7],
        saved(paths[9], tmp_path, lambda one: one.resize((300, 225))): paths[9],
        saved(paths[11], tmp_path, lambda one: one.convert('L').convert('RGB')): paths[11],
        saved(
            paths[13],
            tmp_path,
            lambda one: Image.fromarray((np.asarray(one) + noise).clip(0, 255).astype(np.uint8)),
        ): paths[13],
    }
    others = [saved(paths[20], tmp_path, lambda one: one.transpose(Image.Transpose.ROTATE_180))]
    assert find_similar(Looks([*again, *others]), Looks(paths)) == again
    assert find_similar(Looks(paths), Looks(paths)) == {}


def test_deep_gray_images_are_compared(tmp_path):
    (path,) = scenes(tmp_path, 1)
    gray = np.asarray(Image.open(path).convert('L'))
    deep, flat = str(tmp_path / 'deep.png'), str(tmp_path / 'gray.png')
    stretched = (gray.astype(float) - gray.min()) * 255 / (gray.max() - gray.min())
    Image.fromarray(stretched.astype(np.uint8)).save(flat)
    Image.fromarray((stretched * 200).astype(np.uint16)).save(deep)
    assert find_similar(Looks([deep]), Looks([flat])) == {deep: flat}
