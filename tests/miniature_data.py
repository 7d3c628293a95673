"""Tiny copies of the benchmark data sets as they are downloaded.

Folders, file names, file formats, palettes, label ids and JSON are those of the real ones; images
are a few dozen pixels wide and show flat colors, one per class, with a little noise. A file
depends on its name and on the arguments alone: the same call writes the same bytes, and an image
is the same in VOC and in SBD. What each function returns has ``root``, the folder that the
converter of the data set takes, and ``names``, the images of each part in the order of the lists.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

VOC_TRAIN = ('2007_000032', '2007_000039', '2007_000063', '2007_000068')
VOC_VAL = ('2007_000033', '2007_000042', '2007_000061')
# JPEGImages has far more images than VOC has masks of: SBD's own, and some of detection alone.
VOC_EXTRA = ('2008_000002', '2008_000003', '2008_000007', '2008_000008', '2008_000012')
# SBD divides the images in its own way, so both of its parts have images of VOC's train and val.
SBD_TRAIN = ('2007_000032', '2007_000033', '2008_000002', '2008_000007')
SBD_VAL = ('2007_000042', '2007_000063', '2008_000003', '2008_000008')

CITYSCAPES_TRAIN = {'aachen': 2, 'bochum': 2, 'ulm': 1}
CITYSCAPES_VAL = {'frankfurt': 1, 'lindau': 1}
CITYSCAPES_THINGS = (24, 25, 26, 27, 28, 29, 30, 31, 32, 33)
CITYSCAPES_COLORS = (
    *((0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (111, 74, 0), (81, 0, 81)),
    *((128, 64, 128), (244, 35, 232), (250, 170, 160), (230, 150, 140), (70, 70, 70)),
    *((102, 102, 156), (190, 153, 153), (180, 165, 180), (150, 100, 100), (150, 120, 90)),
    *((153, 153, 153), (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35)),
    *((152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70)),
    *((0, 60, 100), (0, 0, 90), (0, 0, 110), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
)

COCO_TRAIN, COCO_VAL = (9, 25, 30, 34, 36, 42, 49), (139, 285, 632, 724)
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = tuple(number for number in range(1, 91) if number not in COCO_UNUSED_IDS)
NAMES_IN_A_ROW = (
    'person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,'
    'stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,'
    'backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,'
    'baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,'
    'fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,'
    'cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,'
    'cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,'
    'hair drier,toothbrush'
)
COCO_NAMES = tuple(NAMES_IN_A_ROW.split(','))


class RawData(NamedTuple):
    """A data set as it is downloaded.

    Attributes:
        root: The folder that the converter takes.
        names: For each part its images, as the lists of the data set name them.
    """

    root: Path
    names: dict[str, list[str]]


# ------------------------------------------------------------------------------------------- shared
def generator(*key: object) -> np.random.Generator:
    """A random generator that follows from a name."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def varied_size(name: str) -> tuple[int, int]:
    """Width (40 to 64) and height (30 to 48) of the image of that name."""
    rng = generator('size', name)
    return int(rng.integers(40, 65)), int(rng.integers(30, 49))


def voc_palette() -> list[int]:
    """VOC's color map, 256 colors as PIL wants them: bits of the number go to the channels."""
    colors = np.zeros((256, 3), int)
    for number in range(256):
        for bit in range(8):
            colors[number, bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return colors.ravel().tolist()


def save(path: Path, array: np.ndarray, palette: Sequence[int] | None = None) -> None:
    """Write an image; the suffix says which format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)  # a gray image becomes one of mode P
    image.save(path, quality=95)


def scene(mask: np.ndarray, *key: object) -> np.ndarray:
    """An RGB image in which a pixel's class can be seen."""
    colors = np.random.default_rng(7).integers(30, 226, (256, 3))
    noise = generator('noise', *key).integers(-20, 21, (*mask.shape, 3))
    return (colors[mask] + noise).astype(np.uint8)


def write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{name}\n' for name in names))


def random_box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2), at least 6 pixels and at most half of the image each way."""
    w, h = int(rng.integers(6, width // 2)), int(rng.integers(6, height // 2))
    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return x, y, x + w, y + h


# -------------------------------------------------------------------------------------- VOC and SBD
def voc_mask(name: str, shift: int = 0, border: bool = True) -> np.ndarray:
    """Class numbers of an image: three boxes of classes 1 to 20, with a border of 255.

    Args:
        name: Name of the image.
        shift: Moves the boxes to the left, as another annotator might have drawn them.
        border: Whether boxes have the border of 255 that VOC has and SBD has not.
    """
    width, height = varied_size(name)
    mask = np.zeros((height, width), np.uint8)
    rng = generator('voc', name)
    first = zlib.crc32(name.encode())
    for number in range(first, first + 3):
        x1, y1, x2, y2 = random_box(rng, width, height)
        x1, x2 = max(x1 - shift, 0), x2 - shift
        if border:
            mask[y1:y2, x1:x2] = 255
            mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = number % 20 + 1
        else:
            mask[y1:y2, x1:x2] = number % 20 + 1
    return mask


def make_voc(
    root: Path,
    train: Sequence[str] = VOC_TRAIN,
    val: Sequence[str] = VOC_VAL,
    extra: Sequence[str] = VOC_EXTRA,
) -> RawData:
    """Write ``VOCdevkit/VOC2012`` below ``root``.

    Args:
        root: Folder in which the archive is unpacked.
        train: Images of ``train.txt``, with masks.
        val: Images of ``val.txt``, with masks.
        extra: Images in JPEGImages alone: without masks, in no list.

    Returns:
        Root ``VOCdevkit/VOC2012``; parts train, val, trainval and extra.
    """
    folder = Path(root) / 'VOCdevkit' / 'VOC2012'
    for name in (*train, *val, *extra):
        save(folder / 'JPEGImages' / f'{name}.jpg', scene(voc_mask(name, border=False), name))
    for name in (*train, *val):
        save(folder / 'SegmentationClass' / f'{name}.png', voc_mask(name), voc_palette())
    names = dict(train=list(train), val=list(val), trainval=sorted((*train, *val)))
    for part, listed in names.items():
        write_list(folder / 'ImageSets' / 'Segmentation' / f'{part}.txt', listed)
    return RawData(folder, dict(names, extra=list(extra)))


def sbd_mask(name: str) -> np.ndarray:
    """SBD's class numbers of an image, not those of VOC: shifted, and without 255."""
    return voc_mask(name, shift=3, border=False)


def make_sbd(root: Path, train: Sequence[str] = SBD_TRAIN, val: Sequence[str] = SBD_VAL) -> RawData:
    """Write ``benchmark_RELEASE/dataset`` below ``root``.

    Args:
        root: Folder in which the archive is unpacked.
        train: Images of SBD's ``train.txt``; some are in VOC's train, some in its val.
        val: Images of SBD's ``val.txt``, likewise.

    Returns:
        Root ``benchmark_RELEASE``; parts train and val.
    """
    from scipy.io import savemat

    folder = Path(root) / 'benchmark_RELEASE' / 'dataset'
    (folder / 'cls').mkdir(parents=True, exist_ok=True)
    for name in (*train, *val):
        mask = sbd_mask(name)
        present = np.unique(mask[mask > 0]).reshape(-1, 1)
        content = dict(Segmentation=mask, CategoriesPresent=present)
        path = folder / 'cls' / f'{name}.mat'
        savemat(str(path), dict(GTcls=content), do_compression=True)
        data = path.read_bytes()  # the header has a time: 116 bytes of text
        path.write_bytes(b'MATLAB 5.0 MAT-file'.ljust(116) + data[116:])
        save(folder / 'img' / f'{name}.jpg', scene(voc_mask(name, border=False), name))
    write_list(folder / 'train.txt', train)
    write_list(folder / 'val.txt', val)
    return RawData(folder.parent, dict(train=list(train), val=list(val)))


# --------------------------------------------------------------------------------------- Cityscapes
def cityscapes_ids(name: str, size: tuple[int, int] = (64, 32)) -> np.ndarray:
    """Label ids of an image: upright stripes of all of 0 to 33 in an order of its own."""
    order = generator('cityscapes', name).permutation(34)
    columns = np.arange(size[0]) * 34 // size[0]
    return np.tile(order[columns].astype(np.uint8), (size[1], 1))


def make_cityscapes(
    root: Path,
    train: Mapping[str, int] = CITYSCAPES_TRAIN,
    val: Mapping[str, int] = CITYSCAPES_VAL,
    size: tuple[int, int] = (64, 32),
) -> RawData:
    """Write ``leftImg8bit`` and ``gtFine`` (label ids, instance ids, colors) into ``root``.

    Args:
        root: Folder in which both archives are unpacked.
        train: Number of images of each city of the train part.
        val: The same of the val part.
        size: Width and height of every image; with fewer than 34 columns not every id is there.

    Returns:
        Root ``root``; parts train and val, names such as ``aachen/aachen_000000_000019``.
    """
    names: dict[str, list[str]] = {}
    for part, cities in (('train', train), ('val', val)):
        names[part] = [
            f'{city}/{city}_{number:06d}_000019'
            for city in cities
            for number in range(cities[city])
        ]
        for name in names[part]:
            ids = cityscapes_ids(name, size)
            truth = Path(root) / 'gtFine' / part / f'{name}_gtFine'
            instances = np.where(np.isin(ids, CITYSCAPES_THINGS), ids * np.uint16(1000), ids)
            opaque = np.array([(*color, 255) for color in CITYSCAPES_COLORS], np.uint8)
            save(Path(f'{truth}_labelIds.png'), ids)
            save(Path(f'{truth}_instanceIds.png'), instances.astype(np.uint16))
            save(Path(f'{truth}_color.png'), opaque[ids])
            image = Path(root) / 'leftImg8bit' / part / f'{name}_leftImg8bit.png'
            save(image, scene(ids, name))
    return RawData(Path(root), names)


# --------------------------------------------------------------------------------------------- COCO
def corners(x1: int, y1: int, x2: int, y2: int) -> list[int]:
    """A box as a polygon."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def coco_objects(number: int, place: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Annotations of an image, without ids: polygons of whole-numbered, axis-parallel edges.

    A large object with a small one on it; another of two parts, one of them L-shaped. Place 1 of a
    part has no annotation, place 2 a crowd (uncompressed RLE) that reaches under the large object.
    """
    if place == 1:
        return []
    (width, height), rng = size, generator('coco', number)
    kinds = [COCO_IDS[(number + 7 * k + 20 * place) % 80] for k in range(3)]
    x, y = int(rng.integers(2, 8)), int(rng.integers(2, 6))
    large, small = (x, y, x + 22, y + 18), (x + 12, y + 9, x + 26, y + 16)
    bend = [x + 24, y, width - 1, y, width - 1, y + 8, width - 6, y + 8, width - 6, y + 4]
    bend += [x + 24, y + 4]
    parts = [[corners(*small)], [corners(*large)], [bend, corners(0, height - 4, 9, height)]]
    length = width - 1 - (x + 24)
    areas = [14 * 7, 22 * 18, 4 * length + 4 * 5 + 9 * 4]
    boxes = [small, large, (0, y, width - 1, height)]
    found = [
        dict(category_id=kind, segmentation=part, area=float(area), iscrowd=0, bbox=_xywh(box))
        for kind, part, area, box in zip(kinds, parts, areas, boxes)
    ]
    if place == 2:
        left, right = x + 4, width - 3  # whole columns: runs go down the columns
        counts = [left * height, (right - left) * height, 3 * height]
        crowd = dict(segmentation=dict(counts=counts, size=[height, width]), area=float(counts[1]))
        box = _xywh((left, 0, right, height))
        found.append(dict(crowd, category_id=1, iscrowd=1, bbox=box))
    return found


def _xywh(box: tuple[int, int, int, int]) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def make_coco(
    root: Path, train: Sequence[int] = COCO_TRAIN, val: Sequence[int] = COCO_VAL
) -> RawData:
    """Write ``train2017``, ``val2017`` and ``annotations`` into ``root``.

    Args:
        root: Folder in which the archives are unpacked.
        train: Ids of the training images; the second has no annotation, the third a crowd.
        val: The same of the validation images.

    Returns:
        Root ``root``; parts train and val, names of 12 digits.
    """
    names = {}
    for part, numbers in (('train', train), ('val', val)):
        images, annotations = [], []
        for place, number in enumerate(numbers):
            name = f'{number:012d}'
            width, height = varied_size(name)
            found = coco_objects(number, place, (width, height))
            shown = np.zeros((height, width), np.uint8)
            for one in reversed([one for one in found if not one['iscrowd']]):
                x, y, w, h = map(int, one['bbox'])
                shown[y : y + h, x : x + w] = one['category_id']
            save(Path(root) / f'{part}2017' / f'{name}.jpg', scene(shown, name))
            entry = dict(license=1, file_name=f'{name}.jpg', height=height, width=width)
            images.append(dict(entry, date_captured='2013-11-14 17:02:52', id=number))
            annotations += [dict(one, image_id=number) for one in found]
        for one_id, one in enumerate(annotations, 100 if part == 'train' else 900):
            one['id'] = one_id
        content = dict(
            info=dict(description='COCO 2017 Dataset', version='1.0', year=2017),
            licenses=[dict(id=1, name='none')],
            images=images,
            annotations=annotations,
            categories=[
                dict(supercategory='thing', id=one, name=name)
                for one, name in zip(COCO_IDS, COCO_NAMES)
            ],
        )
        path = Path(root) / 'annotations' / f'instances_{part}2017.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        names[part] = [f'{number:012d}' for number in numbers]
    return RawData(Path(root), names)


# ------------------------------------------------------------------------------------------- ADE20K
def make_ade20k(root: Path, training: int = 5, validation: int = 2) -> RawData:
    """Write ``images`` and ``annotations``: classes 1 to 150, and 0 for what is none of them.

    Returns:
        Root ``root``; parts training and validation, names such as ``ADE_train_00000001``.
    """
    names = {}
    counts = (('training', 'train', training), ('validation', 'val', validation))
    for part, short, count in counts:
        names[part] = [f'ADE_{short}_{number:08d}' for number in range(1, count + 1)]
        for name in names[part]:
            width, height = varied_size(name)
            mask = np.zeros((height, width), np.uint8)
            first, second = generator('ade', name).integers(1, 151, 2)
            mask[4:, : width // 2], mask[4:, width // 2 :] = first, second
            save(Path(root) / f'images/{part}/{name}.jpg', scene(mask, name))
            save(Path(root) / f'annotations/{part}/{name}.png', mask)
    return RawData(Path(root), names)


# ------------------------------------------------------------------------------------------- Lucchi
def lucchi_mask(part: str, number: int, size: tuple[int, int] = (48, 36)) -> np.ndarray:
    """Mitochondria of a slice: two ellipses that move from slice to slice; bool (H, W)."""
    rng, (width, height) = generator('lucchi', part), size
    y, x = np.mgrid[:height, :width]
    found = np.zeros((height, width), bool)
    for _ in range(2):
        cx, cy = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
        a, b = rng.uniform(0.1, 0.2, 2) * size
        found |= ((x - cx - 0.5 * number) / a) ** 2 + ((y - cy) / b) ** 2 <= 1
    return found


def make_lucchi(
    root: Path, training: int = 6, testing: int = 4, size: tuple[int, int] = (48, 36)
) -> RawData:
    """Write the four TIFF stacks into ``root``: gray images of 8 bits, ground truth 0 and 255.

    Args:
        root: Folder of the stacks.
        training: Number of slices of the training stacks.
        testing: Number of slices of the testing stacks.
        size: Width and height of every slice.

    Returns:
        Root ``root``; parts training and testing, names ``slice_000`` and so on.
    """
    Path(root).mkdir(parents=True, exist_ok=True)
    names = {}
    for part, count in (('training', training), ('testing', testing)):
        masks = [lucchi_mask(part, number, size) for number in range(count)]
        truth = [(mask * 255).astype(np.uint8) for mask in masks]
        images = [scene(mask.astype(np.uint8), part, n)[..., 0] for n, mask in enumerate(masks)]
        for suffix, pages in (('', images), ('_groundtruth', truth)):
            first, *rest = map(Image.fromarray, pages)
            path = Path(root) / f'{part}{suffix}.tif'
            first.save(path, save_all=True, append_images=rest)
        names[part] = [f'slice_{number:03d}' for number in range(count)]
    return RawData(Path(root), names)
