"""Make the digit scenes: a small, real, deterministic data set for semi-supervised segmentation.

Handwritten digits (``sklearn.datasets.load_digits``) are composed on photographs
(``sklearn.datasets.load_sample_images``); both come with scikit-learn, nothing is downloaded. Every
pixel is labeled with 0 (background) or the class of the digit that covers it. Train, val and test
use disjoint digit samples and disjoint regions of the photographs.

Layout of the folder that is written::

    images/{labeled,unlabeled,val,test}/000000.png      BGR scenes
    annotations/{labeled,val,test}/000000.png           label ids, one channel, uint8
    splits/labeled_30.txt ...                           file stems, nested (smaller is in larger)
    audit/unlabeled/000000.png                          hidden truth, never read by training
    meta.json                                           written last: its presence means "complete"

Each image has its own random generator, seeded with (seed, part, index): the same parameters and
library versions give the same bytes, in whatever order the images are made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs at once are not detected there
    fcntl = None  # type: ignore[assignment]  # says that it is missing

GENERATOR = 'digit_scenes'
VERSION = 1
DIGIT_NAMES = (
    *('zero', 'one', 'two', 'three', 'four'),
    *('five', 'six', 'seven', 'eight', 'nine'),
)
DIGIT_COLORS = (
    *((230, 25, 75), (60, 180, 75), (255, 225, 25), (67, 99, 216), (245, 130, 49)),
    *((145, 30, 180), (66, 212, 244), (240, 50, 230), (191, 239, 69), (250, 190, 212)),
)
PARTS = ('labeled', 'unlabeled', 'val', 'test')
POOL_OF_PART = {'labeled': 'train', 'unlabeled': 'train', 'val': 'val', 'test': 'test'}
POOL_SHARES = {'train': 0.6, 'val': 0.1, 'test': 0.3}
TOP_LEVEL = {'images', 'annotations', 'splits', 'audit', 'meta.json'}
# Streams of random numbers that are not those of an image (their second entry is the part).
DIGIT_STREAM, REGION_STREAM = 1000, 1001


class DigitScenesError(Exception):
    """Something the user can put right; the message says how."""


@dataclass(frozen=True)
class SceneParams:
    """Everything that decides the bytes of the data set.

    Args:
        size: Height and width of a scene in pixels.
        classes: Digits that are classes; label ``i + 1`` is ``classes[i]``.
        labeled: Images in the labeled pool.
        subsets: Sizes of the nested labeled subsets. Empty: half and all of the pool.
        unlabeled: Images without masks.
        val: Validation images.
        test: Test images.
        seed: Seed of everything random.
        digits_per_scene: Fewest and most digits in a scene.
        digit_size: Smallest and largest side of a digit's box in pixels.
        rotation: Largest rotation of a digit in degrees, either way.
        overlap: Largest share of a digit that later digits may hide.
        photo_light: Brightness of the photographs; 1 leaves them as they are.
        digit_light: Lowest mean of a stroke's color channels (0 to 255); 0 allows any color.
            Light digits on dim photographs are learned from scratch in minutes; without this
            a network must first learn that dark on light means the same as light on dark.
        contrast: Distance (RGB, 0 to 255) wanted between a digit and what it covers.
        texture: Largest share of photo texture in a stroke.
        distractors: Most scribbles (labeled background) in a scene.
        noise: Strength of noise, blur and uneven light; 0 turns them off.
    """

    size: int = 64
    classes: tuple[int, ...] = (0, 1, 2, 3, 4)
    labeled: int = 120
    subsets: tuple[int, ...] = ()
    unlabeled: int = 1440
    val: int = 100
    test: int = 400
    seed: int = 0
    digits_per_scene: tuple[int, int] = (1, 3)
    digit_size: tuple[int, int] = (26, 40)
    rotation: float = 10.0
    overlap: float = 0.2
    photo_light: float = 0.55
    digit_light: float = 150.0
    contrast: float = 80.0
    texture: float = 0.3
    distractors: int = 0
    noise: float = 0.3

    def __post_init__(self) -> None:
        if not self.subsets:
            sizes = {max(self.labeled // 2, 1), self.labeled}
            lowest = min(len(self.classes), self.labeled)
            object.__setattr__(self, 'subsets', tuple(s for s in sizes if s >= lowest))
        object.__setattr__(self, 'subsets', tuple(sorted(self.subsets)))
        for name, value, allowed, ok in self._rules():
            if not ok:
                option = '--' + name.replace('_', '-')
                raise DigitScenesError(f'{option} is {_text(value)}; allowed: {allowed}')

    def _rules(self) -> Iterator[tuple[str, object, str, bool]]:
        """Yields (name, value, what is allowed, whether the value is)."""
        count = len(self.classes)
        low, high = self.digits_per_scene
        small, large = self.digit_size
        distinct = len(set(self.classes)) == count >= 2
        yield 'size', self.size, '16 to 1024 pixels', 16 <= self.size <= 1024
        digits_ok = distinct and all(0 <= digit <= 9 for digit in self.classes)
        yield 'classes', self.classes, 'two or more different digits of 0 to 9', digits_ok
        at_least = f'at least {count}, one image for each class'
        yield 'labeled', self.labeled, at_least, self.labeled >= count
        for part in ('unlabeled', 'val', 'test'):
            yield part, getattr(self, part), '1 or more images', getattr(self, part) >= 1
        between = (
            f'different sizes from {count} (the number of classes) to {self.labeled} (--labeled)'
        )
        sizes_ok = count <= self.subsets[0] and self.subsets[-1] <= self.labeled
        sizes_ok = sizes_ok and len(set(self.subsets)) == len(self.subsets)
        yield 'subsets', self.subsets, between, sizes_ok
        yield 'seed', self.seed, '0 or more', self.seed >= 0
        yield 'digits_per_scene', (low, high), 'MIN MAX with 1 <= MIN <= MAX', 1 <= low <= high
        box = f'MIN MAX with 8 <= MIN <= MAX <= {self.size} (--size)'
        yield 'digit_size', (small, large), box, 8 <= small <= large <= self.size
        upright = '0 to 45 degrees (a 6 turned further reads as a 9)'
        yield 'rotation', self.rotation, upright, 0 <= self.rotation <= 45
        yield 'overlap', self.overlap, '0 to 0.9', 0 <= self.overlap <= 0.9
        yield 'photo_light', self.photo_light, '0 to 1.5', 0 <= self.photo_light <= 1.5
        yield 'digit_light', self.digit_light, '0 to 255', 0 <= self.digit_light <= 255
        yield 'contrast', self.contrast, '0 to 255', 0 <= self.contrast <= 255
        yield 'texture', self.texture, '0 to 1', 0 <= self.texture <= 1
        yield 'distractors', self.distractors, '0 or more', self.distractors >= 0
        yield 'noise', self.noise, '0 to 5', 0 <= self.noise <= 5

    def as_dict(self) -> dict[str, object]:
        """The parameters as they stand in meta.json (lists instead of tuples)."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Sources:
    """The material of one data set.

    Args:
        digits: (S, 8, 8) float32 in [0, 1], all samples.
        photos: (H, W, 3) uint8 BGR photographs.
        samples: For each pool the indices into ``digits`` of each class, in the order of classes.
        regions: For each pool its regions (photo, y, x, height, width).
    """

    digits: np.ndarray
    photos: list[np.ndarray]
    samples: dict[str, list[np.ndarray]] = field(default_factory=dict)
    regions: dict[str, list[tuple[int, int, int, int, int]]] = field(default_factory=dict)


def class_names(digits: Sequence[int] = SceneParams.classes) -> list[str]:
    """Names of the classes, background first."""
    return ['background', *(DIGIT_NAMES[digit] for digit in digits)]


def palette(digits: Sequence[int] = SceneParams.classes) -> list[list[int]]:
    """RGB colors of the classes, background first."""
    return [[0, 0, 0], *(list(DIGIT_COLORS[digit]) for digit in digits)]


# --------------------------------------------------------------------------- material and its pools
def _divide(items: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Shuffles and divides items among the pools; every pool gets one at least."""
    items = rng.permutation(items)
    val = max(1, round(len(items) * POOL_SHARES['val']))
    test = max(1, round(len(items) * POOL_SHARES['test']))
    train = len(items) - val - test
    ends = {'train': (0, train), 'val': (train, train + val), 'test': (train + val, len(items))}
    return {pool: items[start:end] for pool, (start, end) in ends.items()}


def assign_digits(
    targets: np.ndarray, classes: Sequence[int], seed: int
) -> dict[str, list[np.ndarray]]:
    """Gives each digit sample to one of the pools train, val and test.

    Args:
        targets: (S,) digit that each sample shows.
        classes: Digits that are classes.
        seed: The data set's seed.

    Returns:
        For each pool the sample indices of each class, in the order of ``classes``.
    """
    pools: dict[str, list[np.ndarray]] = {pool: [] for pool in POOL_SHARES}
    for digit in classes:
        rng = np.random.default_rng([seed, DIGIT_STREAM, digit])
        for pool, indices in _divide(np.flatnonzero(targets == digit), rng).items():
            pools[pool].append(indices)
    used = np.concatenate([indices for pool in pools.values() for indices in pool])
    assert len(np.unique(used)) == len(used), 'a digit sample is in two pools'
    return pools


def assign_regions(
    shapes: Sequence[tuple[int, ...]], seed: int, rows: int = 4, columns: int = 6
) -> dict[str, list[tuple[int, int, int, int, int]]]:
    """Gives each cell of a grid over each photograph to one of the pools.

    Args:
        shapes: (height, width, ...) of each photograph.
        seed: The data set's seed.
        rows: Rows of the grid.
        columns: Columns of the grid.

    Returns:
        For each pool its cells as (photo, y, x, height, width).
    """
    pools: dict[str, list[tuple[int, int, int, int, int]]] = {pool: [] for pool in POOL_SHARES}
    for photo, shape in enumerate(shapes):
        height, width = shape[0] // rows, shape[1] // columns
        rng = np.random.default_rng([seed, REGION_STREAM, photo])
        for pool, cells in _divide(np.arange(rows * columns), rng).items():
            for cell in sorted(cells.tolist()):
                y, x = cell // columns * height, cell % columns * width
                pools[pool].append((photo, y, x, height, width))
    return pools


def load_sources(params: SceneParams) -> Sources:
    """Loads digits and photographs and divides both among the pools."""
    try:
        from sklearn.datasets import load_digits, load_sample_images

        bunch = load_digits()
        photos = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in load_sample_images().images]
    except ImportError as error:
        raise DigitScenesError(
            f'the digits and photographs come with scikit-learn, but: {error}. '
            'Install what is missing: pip install scikit-learn pillow'
        ) from error
    return Sources(
        digits=(bunch.images / 16).astype(np.float32),
        photos=photos,
        samples=assign_digits(bunch.target, params.classes, params.seed),
        regions=assign_regions([photo.shape for photo in photos], params.seed),
    )


# --------------------------------------------------------------------------- one scene
def _recolor(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random gain, contrast and color cast; float32 in and out, 0 to 255."""
    mean = image.mean(axis=(0, 1))
    image = (image - mean) * rng.uniform(0.6, 1.3) + mean * rng.uniform(0.6, 1.3)
    if rng.random() < 0.5:
        image = image[..., rng.permutation(3)]
    cast = rng.uniform(0.75, 1.25, size=3).astype(np.float32)
    return np.clip(image * cast, 0, 255).astype(np.float32)


def _photo_patch(
    sources: Sources, pool: str, size: int, light: float, rng: np.random.Generator
) -> np.ndarray:
    """A random crop of the pool's regions, (size, size, 3) float32, 0 to 255."""
    photo, y, x, height, width = sources.regions[pool][rng.integers(len(sources.regions[pool]))]
    side = int(min(height, width) * rng.uniform(0.4, 1.0))
    y += int(rng.integers(height - side + 1))
    x += int(rng.integers(width - side + 1))
    crop = sources.photos[photo][y : y + side, x : x + side]
    mode = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    crop = cv2.resize(crop, (size, size), interpolation=mode).astype(np.float32)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return _recolor(crop, rng) * light


def _digit_alpha(digit: np.ndarray, params: SceneParams, rng: np.random.Generator) -> np.ndarray:
    """Draws one 8x8 digit at a random place of the scene; (size, size) coverage in [0, 1]."""
    margin, factor = 2, 8
    fine = cv2.copyMakeBorder(digit, *(margin,) * 4, cv2.BORDER_CONSTANT, value=0.0)
    fine = cv2.resize(fine, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    side = rng.uniform(*params.digit_size)
    scale = side / (digit.shape[0] * factor)
    angle = np.deg2rad(rng.uniform(-params.rotation, params.rotation))
    stretch, shear = rng.uniform(0.85, 1.15), rng.uniform(-0.15, 0.15)
    center = rng.uniform(0.42 * side, params.size - 0.42 * side, size=2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * turn @ np.array([[stretch, shear], [0, 1]])
    offset = center - linear @ np.full(2, (fine.shape[0] - 1) / 2)
    matrix = np.column_stack([linear, offset])
    scene = cv2.warpAffine(fine, matrix, (params.size, params.size), flags=cv2.INTER_LINEAR)
    # The cut through the smooth strokes decides how bold the digit is.
    cut, softness = rng.uniform(0.38, 0.52), 3.0
    return np.clip((scene - cut) * softness + 0.5, 0, 1)


def _scribble_alpha(params: SceneParams, rng: np.random.Generator) -> np.ndarray:
    """Draws a curve across the scene, about as bold as a stroke; (size, size) in [0, 1].

    Both ends lie outside the scene: a short straight scribble would look like a one.
    """
    time = np.linspace(0, 1, 24)[:, None]
    along, knots = np.array([-0.1, rng.uniform(0.2, 0.8), 1.1]), rng.uniform(0, 1, size=3)
    curve = np.column_stack([along, knots])[:, :: rng.choice([-1, 1])] * params.size
    curve = (1 - time) ** 2 * curve[0] + 2 * time * (1 - time) * curve[1] + time**2 * curve[2]
    thick = max(1, round(float(np.mean(params.digit_size)) * rng.uniform(0.08, 0.18)))
    canvas = np.zeros((params.size, params.size), np.uint8)
    points = np.round(curve * 16).astype(np.int32)[:, None]
    cv2.polylines(canvas, [points], False, 255, thick, cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / 255


def _stroke_colors(count: int, light: float, rng: np.random.Generator) -> np.ndarray:
    """Random colors (count, 3), each with a channel mean of at least ``light``."""
    colors = rng.uniform(0, 255, size=(count, 3))
    mean = colors.mean(axis=1, keepdims=True)
    # Toward white just as far as it takes: the mean moves linearly from its value to 255.
    share = np.clip((light - mean) / (255 - mean), 0, 1)
    return (colors + share * (255 - colors)).astype(np.float32)


def _paint(
    image: np.ndarray,
    alpha: np.ndarray,
    texture: np.ndarray,
    params: SceneParams,
    rng: np.random.Generator,
) -> np.ndarray:
    """Fills ``alpha`` with a color that stands off what it covers, and with photo texture."""
    below = image[alpha > 0.5].mean(axis=0) if (alpha > 0.5).any() else image.mean(axis=(0, 1))
    colors = _stroke_colors(16, params.digit_light, rng)
    distance = np.linalg.norm(colors - below, axis=1)
    far = distance >= params.contrast
    color = colors[np.argmax(far) if far.any() else np.argmax(distance)]
    share = rng.uniform(0, params.texture)
    fill = color + share * (texture - texture.mean(axis=(0, 1)))
    weight = alpha[..., None]
    return np.clip(image * (1 - weight) + fill * weight, 0, 255)


def _degrade(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Uneven light, blur and sensor noise."""
    size = image.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = rng.uniform(-0.3, 0.3, size=2) * min(strength, 2.0)
    light = 1 + tilt[0] * axis[:, None] + tilt[1] * axis[None, :]
    image = image * light[..., None].astype(np.float32)
    if rng.random() < 0.5:
        sigma = strength * rng.uniform(0.3, 0.9)
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    sigma = strength * rng.uniform(2, 14)
    return image + sigma * rng.standard_normal(image.shape, dtype=np.float32)


def render_scene(
    sources: Sources, part: str, index: int, params: SceneParams
) -> tuple[np.ndarray, np.ndarray]:
    """Makes one scene; depends on nothing but its arguments.

    Args:
        sources: Digits, photographs and their pools.
        part: One of ``labeled``, ``unlabeled``, ``val``, ``test``.
        index: Number of the image in its part. Its first digit shows class ``index`` modulo the
            number of classes, so that any run of images has every class.
        params: The data set's parameters.

    Returns:
        (size, size, 3) uint8 BGR image and (size, size) uint8 label ids.
    """
    rng = np.random.default_rng([params.seed, PARTS.index(part), index])
    pool, count = POOL_OF_PART[part], len(params.classes)
    image = _photo_patch(sources, pool, params.size, params.photo_light, rng)
    for _ in range(rng.integers(params.distractors + 1)):
        texture = _photo_patch(sources, pool, params.size, params.photo_light, rng)
        image = _paint(image, _scribble_alpha(params, rng), texture, params, rng)
    low, high = params.digits_per_scene
    others = rng.integers(count, size=rng.integers(low, high + 1) - 1)
    mask = np.zeros((params.size, params.size), np.uint8)
    areas: list[int] = []
    owner = np.zeros_like(mask, dtype=np.int32)  # which digit of the scene is seen at a pixel
    for kind in [index % count, *others.tolist()]:
        alpha = _place_digit(sources, pool, kind, owner, areas, params, rng)
        if alpha is None:
            continue  # no room for one more: the scene has fewer digits
        texture = _photo_patch(sources, pool, params.size, params.photo_light, rng)
        image = _paint(image, alpha, texture, params, rng)
        covered = alpha > 0.5
        mask[covered] = kind + 1
        areas.append(int(covered.sum()))
        owner[covered] = len(areas)
    if params.noise > 0:
        image = _degrade(image, params.noise, rng)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), mask


def _place_digit(
    sources: Sources,
    pool: str,
    kind: int,
    owner: np.ndarray,
    areas: list[int],
    params: SceneParams,
    rng: np.random.Generator,
    tries: int = 12,
) -> np.ndarray | None:
    """Draws a digit of class ``kind`` where it hides no earlier digit by more than allowed."""
    for _ in range(tries):
        sample = rng.choice(sources.samples[pool][kind])
        alpha = _digit_alpha(sources.digits[sample], params, rng)
        left = np.bincount(owner[alpha <= 0.5], minlength=len(areas) + 1)[1:]
        if (alpha > 0.5).any() and (left >= (1 - params.overlap) * np.array(areas)).all():
            return alpha
    return None


# --------------------------------------------------------------------------- the data set on disk
def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of a BGR image or a label map."""
    done, data = cv2.imencode('.png', array, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise DigitScenesError(
            'OpenCV could not encode a PNG, its PNG support is missing: install opencv-python anew'
        )
    return data.tobytes()


def file_counts(params: SceneParams) -> dict[str, int]:
    """Number of files in each folder of a complete data set."""
    counts = {f'images/{part}': getattr(params, part) for part in PARTS}
    counts |= {
        f'annotations/{part}': counts[f'images/{part}'] for part in ('labeled', 'val', 'test')
    }
    return counts | {'audit/unlabeled': params.unlabeled, 'splits': len(params.subsets)}


class _Counter:
    """An in-place counter on a terminal, silent elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.shown = total, 0, sys.stdout.isatty()

    def step(self) -> None:
        self.done += 1
        if self.shown and (self.done % 20 == 0 or self.done == self.total):
            end = '\n' if self.done == self.total else ''
            print(f'\rdigit scenes: {self.done}/{self.total} images', end=end, flush=True)


def write_dataset(folder: Path, params: SceneParams) -> None:
    """Writes the whole data set into an empty folder, meta.json last."""
    sources = load_sources(params)
    for name in file_counts(params):
        (folder / name).mkdir(parents=True, exist_ok=True)
    counter = _Counter(sum(getattr(params, part) for part in PARTS))
    presence: list[np.ndarray] = []
    for part in PARTS:
        truth = 'audit' if part == 'unlabeled' else 'annotations'
        for index in range(getattr(params, part)):
            image, mask = render_scene(sources, part, index, params)
            (folder / 'images' / part / f'{index:06d}.png').write_bytes(encode_png(image))
            (folder / truth / part / f'{index:06d}.png').write_bytes(encode_png(mask))
            if part == 'labeled':
                presence.append(np.bincount(mask.ravel(), minlength=len(params.classes) + 1) > 0)
            counter.step()
    for size in params.subsets:
        missing = np.flatnonzero(~np.any(presence[:size], axis=0))
        if len(missing):
            names = ', '.join(class_names(params.classes)[kind] for kind in missing)
            raise DigitScenesError(
                f'the labeled subset of {size} images has no pixel of: {names}. '
                'Use another --seed, a larger subset or larger digits'
            )
        stems = ''.join(f'{index:06d}\n' for index in range(size))
        (folder / 'splits' / f'labeled_{size}.txt').write_text(stems)
    write_meta(folder, params)


def write_meta(folder: Path, params: SceneParams) -> None:
    """Writes meta.json in one step: it is there whole or not at all."""
    meta = {
        'generator': GENERATOR,
        'version': VERSION,
        'classes': class_names(params.classes),
        'palette': palette(params.classes),
        'seed': params.seed,
        'size': [params.size, params.size],
        'counts': file_counts(params),
        'splits': {f'labeled_{size}': size for size in params.subsets},
        'parameters': params.as_dict(),
    }
    partial = folder / 'meta.json.partial'
    partial.write_text(json.dumps(meta, indent=2) + '\n')
    os.replace(partial, folder / 'meta.json')


def read_meta(folder: Path) -> dict | None:
    """meta.json of a complete data set, None when the folder is missing or empty.

    Raises:
        DigitScenesError: If the folder holds anything that this program did not make.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise DigitScenesError(f'{folder} is a file; give the path of a folder')
    names = {entry.name for entry in folder.iterdir()}
    if not names:
        return None
    advice = 'it is left alone: give another folder, or remove this one yourself'
    if 'meta.json' not in names:
        shown = ', '.join(sorted(names)[:5])
        raise DigitScenesError(f'{folder} is not empty ({shown}) and has no meta.json; {advice}')
    try:
        meta = json.loads((folder / 'meta.json').read_text())
        ours = meta['generator'] == GENERATOR and isinstance(meta['parameters'], dict)
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise DigitScenesError(f'{folder}/meta.json was not written by {GENERATOR}; {advice}')
    return meta


def find_differences(folder: Path, meta: dict, params: SceneParams) -> list[str]:
    """What keeps a complete data set from being the one that is asked for; empty when nothing."""
    found = []
    if meta.get('version') != VERSION:
        found.append(f'generator version: there {meta.get("version")}, this program {VERSION}')
    wanted, there = params.as_dict(), meta['parameters']
    for name in wanted | there:
        if wanted.get(name) != there.get(name):
            option = '--' + name.replace('_', '-')
            values = f'there {_text(there.get(name))}, asked for {_text(wanted.get(name))}'
            found.append(f'{option}: {values}')
    if not found:
        for name, count in file_counts(params).items():
            path = folder / name
            held = sum(1 for _ in os.scandir(path)) if path.is_dir() else 0
            if held != count:
                found.append(f'{name}: holds {held} files instead of {count}')
    return found


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """An empty sibling of ``folder``, gone afterwards; what a killed run left there is removed."""
    space = folder.with_name(f'.{folder.name}.{GENERATOR}')
    marker = space / f'made_by_{GENERATOR}'
    if space.exists() and any(space.iterdir()) and not marker.exists():
        raise DigitScenesError(f'{space} is in the way and not from this program; remove it')
    space.mkdir(parents=True, exist_ok=True)
    with marker.open('w') as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                message = f'another run is writing {folder} at this moment; wait until it is done'
                raise DigitScenesError(message) from None
        try:
            for left in space.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
            yield space
        finally:
            shutil.rmtree(space, ignore_errors=True)


def make_digit_scenes(folder: str | Path, params: SceneParams, force: bool = False) -> bool:
    """Makes the data set, or finds that it is there already.

    Args:
        folder: Folder to write; it appears at the very end, complete.
        params: The data set's parameters.
        force: Replace a complete data set of this program.

    Returns:
        True when it was made, False when it was complete with these parameters.

    Raises:
        DigitScenesError: If the folder holds something else, or other parameters without ``force``.
    """
    folder = Path(folder).absolute()
    meta = read_meta(folder)
    if meta is not None and not force:
        differences = find_differences(folder, meta, params)
        if not differences:
            return False
        raise DigitScenesError(
            f'{folder} is complete, but is not what is asked for:\n  '
            + '\n  '.join(differences)
            + '\nuse --force to replace it, or give another folder'
        )
    if meta is not None:
        foreign = sorted({entry.name for entry in folder.iterdir()} - TOP_LEVEL)
        if foreign:
            names = ', '.join(foreign)
            raise DigitScenesError(f'{folder} also holds {names}; move them, then use --force')
    with _workspace(folder) as space:
        write_dataset(_fresh(space / 'new'), params)
        if meta is not None:
            os.rename(folder, space / 'old')
        os.rename(space / 'new', folder)
    return True


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


# --------------------------------------------------------------------------- command line
def _text(value: object) -> str:
    """A value as it is typed on the command line."""
    return ' '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


HELP = {
    'size': 'height and width of a scene in pixels',
    'classes': 'digits that are classes (label i + 1 is the i-th)',
    'labeled': 'images in the labeled pool',
    'subsets': 'sizes of the nested labeled subsets (default: half and all of the pool)',
    'unlabeled': 'images without masks',
    'val': 'validation images',
    'test': 'test images',
    'seed': 'seed of everything random',
    'digits_per_scene': 'fewest and most digits in a scene',
    'digit_size': "smallest and largest side of a digit's box in pixels",
    'rotation': 'largest rotation of a digit in degrees',
    'overlap': 'largest share of a digit that later ones may hide',
    'photo_light': 'brightness of the photographs (1: as they are)',
    'digit_light': "lowest mean of a stroke's color channels (0: any color)",
    'contrast': 'RGB distance (0 to 255) wanted between a digit and what it covers',
    'texture': 'largest share of photo texture in a stroke (0 to 1)',
    'distractors': 'most scribbles in a scene (labeled background)',
    'noise': 'strength of noise, blur and uneven light (0: off)',
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line to a namespace with one entry for each field of SceneParams."""
    parser = argparse.ArgumentParser(
        description='Make the digit scenes: handwritten digits on photographs, with masks.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', nargs='?', default='data/digit_scenes', help='folder to write')
    for item in fields(SceneParams):
        default: Any = item.default
        several = isinstance(default, tuple)
        kind = type(default[0] if several and default else 0 if several else default)
        pair = item.name in ('digits_per_scene', 'digit_size')
        parser.add_argument(
            '--' + item.name.replace('_', '-'),
            type=kind,
            default=default if default != () else argparse.SUPPRESS,
            nargs=2 if pair else '+' if several else None,
            metavar=('MIN', 'MAX') if pair else 'N' if kind is int else 'X',
            help=HELP[item.name],
        )
    parser.add_argument(
        '--force', action='store_true', help='replace a complete data set made by this program'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    options = vars(parse_args(argv))
    out, force = options.pop('out'), options.pop('force')
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        params = SceneParams(**values)
        made = make_digit_scenes(out, params, force)
    except DigitScenesError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(f'error: cannot write {out}: {error}', file=sys.stderr)
        return 1
    counts = ', '.join(f'{getattr(params, part)} {part}' for part in PARTS)
    subsets = _text(params.subsets)
    state = 'made' if made else 'is complete already, nothing to do'
    print(f'digit scenes: {out} {state} ({counts}; labeled subsets {subsets})')
    return 0
