"""Make the COCO files that a detector learns from, out of the masks of a training config.

labeled.json has the labeled images and a box around every connected component of their masks,
unlabeled.json the unlabeled images without boxes. File names are relative to data_prefix.img_path
of the image's data set. Which classes get boxes: --classes; else detection_classes of the config;
else all of the data set's classes; always without those of --exclude.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmseg_semi.datasets.dataset_tree import (
    data_infos,
    image_loaders,
    leaf_datasets,
    pipeline_transforms,
)
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.detection.coco import (
    coco_annotations,
    coco_categories,
    coco_images,
    image_size,
    read_coco,
    write_coco_files,
)
from mmseg_semi.errors import check_one_size, hint, reading
from mmseg_semi.files import is_local
from mmseg_semi.functional.components import masks_to_boxes
from mmseg_semi.utils.config import CfgOptions, load_config
from mmseg_semi.utils.progress import track

LOADING = ('LoadImageFromFile', 'LoadChannels', 'LoadAnnotations')
AFTER_LOADING = ('geometry', 'strong', 'detections', 'maps')
MIN_AREA = 90  # pixels, the value of the authors of "Weighting Pseudo-Labels"
Box = tuple[int, int, int, int, int]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='training config with a labeled and an unlabeled part')
    parser.add_argument(
        '--out-dir',
        help='default: DATA_ROOT/detection/NAME, NAME being that of the split file (of its folder '
        'when the file is called labeled.txt), or "all" without one',
    )
    parser.add_argument(
        '--min-area',
        type=int,
        metavar='N',
        help='components of fewer pixels get no box; default: detection_min_area of the config, '
        f'else {MIN_AREA}',
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='classes that get boxes')
    parser.add_argument(
        '--exclude',
        nargs='*',
        metavar='NAME',
        help='classes that get none; default: background, unless classes are listed; without a '
        'name: none is left out',
    )
    parser.add_argument('--connectivity', type=int, default=8, choices=(4, 8))
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='override config keys')
    return parser.parse_args(argv)


# --------------------------------------------------------------------------------------- what to do
def loading_only(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Config of a dataset with the loading transforms only.

    Others may need files that are made later, such as the boxes that the detector is going to find.
    """
    dataset = dict(dataset)
    if 'dataset' in dataset:
        dataset['dataset'] = loading_only(dataset['dataset'])
    if 'datasets' in dataset:
        dataset['datasets'] = [loading_only(one) for one in dataset['datasets']]
    if dataset.get('pipeline') is not None:
        dataset['pipeline'] = [t for t in dataset['pipeline'] if _kind(t) in LOADING]
    return {key: value for key, value in dataset.items() if key not in AFTER_LOADING}


def _kind(transform: Any) -> str:
    kind = transform['type'] if isinstance(transform, Mapping) else type(transform)
    return getattr(kind, '__name__', str(kind)).rsplit('.', 1)[-1]


def build_parts(config: Config, path: str) -> tuple[Any, Any]:
    """Build the labeled and the unlabeled dataset of a config."""
    dataset = (config.get('train_dataloader') or {}).get('dataset') or {}
    for part in ('labeled', 'unlabeled'):
        if not isinstance(dataset.get(part), Mapping):
            raise SystemExit(
                f'{path}: train_dataloader.dataset has no part {part!r}; give the config of a '
                'semi-supervised method (its dataset is a SemiDataset)'
            )
    loading = dataset.get('loading')
    labeled = SemiDataset(loading_only(dataset['labeled']), None, loading=loading).labeled
    given = {} if loading is None else dict(loading=loading)
    unlabeled = DATASETS.build(given | loading_only(dataset['unlabeled']))
    unlabeled.full_init()
    return labeled, unlabeled


def choose_classes(
    names: Sequence[str],
    config: Mapping[str, Any],
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> dict[int, str]:
    """Names of the classes that get boxes, by class number.

    Args:
        names: All classes of the data set.
        config: The config; ``detection_classes`` is read.
        classes: What ``--classes`` names, None when it is not given.
        exclude: What ``--exclude`` names, None when it is not given.
    """
    listed, key = classes, '--classes'
    if listed is None:
        listed, key = config.get('detection_classes'), 'detection_classes'
        if isinstance(listed, str):
            raise SystemExit(f'detection_classes is {listed!r}; it must be a tuple of class names')
    if exclude is None:
        exclude = ['background'] if listed is None and 'background' in names else []
    for where, given in ((key, listed or []), ('--exclude', exclude)):
        for name in given:
            if name not in names:
                raise SystemExit(
                    f'{where}: the data set has no class {name!r}.{hint(str(name), list(names))} '
                    f'Its classes are: {", ".join(names)}.'
                )
    chosen = {
        number: name
        for number, name in enumerate(names)
        if (listed is None or name in listed) and name not in exclude
    }
    if not chosen:
        raise SystemExit(
            f'no class is left to get boxes: the data set has {", ".join(names)}; {key} names '
            f'{", ".join(listed or []) or "none"} and left out are {", ".join(exclude) or "none"}'
        )
    return chosen


def choose_min_area(config: Mapping[str, Any], given: int | None) -> int:
    """Fewest pixels of a component that gets a box."""
    area, key = given, '--min-area'
    if area is None:
        area, key = config.get('detection_min_area', MIN_AREA), 'detection_min_area'
    if type(area) is not int or area < 0:
        raise SystemExit(f'{key} is {area!r}; it must be a number of pixels, 0 or more')
    return area


def choose_out_dir(labeled: Any, config: str) -> Path:
    """``DATA_ROOT/detection/NAME``, where no files of another split may be."""
    leaves = leaf_datasets(labeled)
    roots = {(leaf.data_root or '', getattr(leaf, 'ann_file', '') or '') for leaf in leaves}
    root, ann_file = min(roots)
    if len(roots) > 1 or not root or not is_local(getattr(leaves[0], 'backend_args', None)):
        raise SystemExit(
            f'{config}: the labeled data have no data_root, are not in the file system, or come '
            'from several data sets; give --out-dir for the files'
        )
    folder = Path(root) / 'detection' / split_name(ann_file)
    try:
        earlier = read_coco(folder / 'labeled.json')['info'].get('ann_files')
    except (FileNotFoundError, ValueError):
        return folder
    if earlier != split_files(labeled):
        raise SystemExit(
            f'{folder / "labeled.json"} was made from the split {earlier}, not from '
            f'{split_files(labeled)}. Give --out-dir, or remove the folder.'
        )
    return folder


def split_name(ann_file: str) -> str:
    """Name of a split: of its file, or of the folder when the file is just called labeled.txt."""
    path = Path(ann_file)
    return (path.parent.name if path.stem == 'labeled' else '') or path.stem or 'all'


def below_root(leaf: Any, path: str) -> str:
    """A path of a dataset, relative to its data_root where it is inside."""
    relative = os.path.relpath(path, leaf.data_root) if leaf.data_root else path
    outside = relative == os.pardir or relative.startswith(os.pardir + os.sep)
    return (path if outside else relative).replace(os.sep, '/')


def split_files(dataset: Any) -> list[str]:
    """Split file of every unwrapped dataset, '' where all images are taken."""
    leaves = leaf_datasets(dataset)
    return [below_root(leaf, leaf.ann_file) if leaf.ann_file else '' for leaf in leaves]


def image_folders(dataset: Any) -> list[str]:
    """Image folders of a dataset, each once."""
    folders = [below_root(leaf, _img_folder(leaf)) for leaf in leaf_datasets(dataset)]
    return list(dict.fromkeys(folders))


def _img_folder(leaf: Any) -> str:
    return leaf.data_prefix.get('img_path') or '.'


# ------------------------------------------------------------------------------------------ reading
def list_samples(dataset: Any, part: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """``(unwrapped dataset, data info)`` of every image, by file name; images listed twice once."""
    samples: dict[str, tuple[Any, dict[str, Any]]] = {}
    for leaf in leaf_datasets(dataset):
        for info in data_infos(leaf):
            name = os.path.relpath(info['img_path'], _img_folder(leaf)).replace(os.sep, '/')
            _, other = samples.setdefault(name, (leaf, info))
            for key in ('img_path', 'seg_map_path'):
                if other.get(key) != info.get(key):
                    raise SystemExit(
                        f'{part}: the file name {name}, relative to data_prefix.img_path, stands '
                        f'for {other.get(key)} and for {info.get(key)}. Names must differ: use '
                        'one folder above both as data_prefix.img_path.'
                    )
    if not samples:
        raise SystemExit(f'train_dataloader.dataset.{part} has no image: correct its data_prefix')
    return samples


def read_size(leaf: Any, path: str) -> tuple[int, int]:
    """Width and height of an image."""
    load = next(iter(image_loaders(leaf)), None) or LoadImageFromFile()
    with reading(f'image {path}', SystemExit):
        return image_size(path, load, is_local(getattr(leaf, 'backend_args', None)))


def read_mask(leaf: Any, info: dict[str, Any]) -> np.ndarray:
    """The mask (H, W) of a labeled image as the pipeline loads it."""
    loaders = [t for t in pipeline_transforms(leaf) if _kind(t) == 'LoadAnnotations']
    if not loaders or not info.get('seg_map_path'):
        raise SystemExit(
            f'labeled: no mask is loaded for {info["img_path"]}; the labeled part needs '
            'data_prefix.seg_map_path and LoadAnnotations in its pipeline'
        )
    with reading(f'mask {info["seg_map_path"]}', SystemExit):
        mask = loaders[0].transform(dict(info))['gt_seg_map']
    if mask.ndim != 2:
        raise SystemExit(
            f'mask {info["seg_map_path"]} has the shape {mask.shape}; it must be a single-channel '
            'image of class numbers'
        )
    return mask


def read_boxes(
    samples: Mapping[str, tuple[Any, dict[str, Any]]],
    classes: Mapping[int, str],
    min_area: int,
    connectivity: int,
) -> tuple[dict[str, tuple[int, int]], list[list[Box]]]:
    """Sizes of the labeled images by file name, and the boxes of each."""
    sizes, boxes = {}, []
    for name, (leaf, info) in track(list(samples.items())):
        mask, size = read_mask(leaf, info), read_size(leaf, info['img_path'])
        label, image = f'mask {info["seg_map_path"]}', info['img_path']
        check_one_size(label, mask.shape, image, size[::-1], SystemExit)
        ignored = getattr(leaf, 'ignore_index', 255)
        known = [number for number in classes if number != ignored]
        sizes[name] = size
        boxes.append(masks_to_boxes(mask, known, min_area, connectivity, ignored))
    return sizes, boxes


# ----------------------------------------------------------------------------------------- the tool
def report(classes: Mapping[int, str], boxes: Sequence[Sequence[Box]]) -> None:
    """Print how many boxes each class has, in how many images."""
    width = max(map(len, [*classes.values(), 'class']))
    print(f'{"class":{width}}  boxes  images')
    for number, name in classes.items():
        per_image = [sum(box[0] == number for box in image) for image in boxes]
        print(f'{name:{width}}  {sum(per_image):5}  {sum(n > 0 for n in per_image):6}')
    for number, name in classes.items():
        if not any(box[0] == number for image in boxes for box in image):
            print(f'WARNING: class {name!r} has no box; the detector cannot learn it')


def main(argv: Sequence[str] | None = None) -> None:
    """Read everything, then write both files."""
    args = parse_args(argv)
    config = load_config(args.config, args.cfg_options)
    init_default_scope(config.get('default_scope', 'mmseg'))
    min_area = choose_min_area(config, args.min_area)
    labeled, unlabeled = build_parts(config, args.config)
    names = labeled.metainfo.get('classes') or ()
    if not names:
        raise SystemExit(
            f'{args.config}: the metainfo of the labeled part has no classes: set '
            'train_dataloader.dataset.labeled.metainfo'
        )
    classes = choose_classes(names, config, args.classes, args.exclude)
    folder = Path(args.out_dir) if args.out_dir else choose_out_dir(labeled, args.config)
    if folder.exists() and not folder.is_dir():
        raise SystemExit(f'{folder} is no folder; give another --out-dir')
    samples, others = list_samples(labeled, 'labeled'), list_samples(unlabeled, 'unlabeled')

    sizes, boxes = read_boxes(samples, classes, min_area, args.connectivity)
    count = sum(map(len, boxes))
    print()
    if not count:
        raise SystemExit(
            f'none of the {len(boxes)} masks has a component of {min_area} pixels or more of '
            f'{", ".join(classes.values())}; nothing was written. Lower --min-area or choose '
            'other classes.'
        )
    other_sizes = {
        name: read_size(leaf, info['img_path'])
        for name, (leaf, info) in track(list(others.items()))
    }
    print()
    categories, files = coco_categories(classes), {}
    for part, dataset, part_sizes, part_boxes in (
        ('labeled', labeled, sizes, boxes),
        ('unlabeled', unlabeled, other_sizes, []),
    ):
        info = dict(
            image_folders=image_folders(dataset),
            ann_files=split_files(dataset),
            min_area=min_area,
            connectivity=args.connectivity,
            area='width x height of the box',
        )
        files[folder / f'{part}.json'] = dict(
            info=info,
            images=coco_images(part_sizes),
            annotations=coco_annotations(part_boxes),
            categories=categories,
        )
    write_coco_files(files)
    report(classes, boxes)
    print(f'{folder / "labeled.json"}: {len(sizes)} images, {count} boxes')
    print(f'{folder / "unlabeled.json"}: {len(other_sizes)} images')
    for part, dataset in (('labeled', labeled), ('unlabeled', unlabeled)):
        if len(image_folders(dataset)) > 1:
            print(
                f'WARNING: {part}.json names images of several folders, relative to each: '
                f'{", ".join(image_folders(dataset))}'
            )
