"""Make masks of 81 classes out of COCO's instances.

semantic_masks/{train2017,val2017} gets a mask of every image of
annotations/instances_{train,val}2017.json: 0 is background, 1 to 80 are the categories in the order
of their ids. Of objects that overlap, the one with the smallest area is on top (of equal ones the
later in the file). Crowds are below all objects. Images without annotations are background.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseg_semi.datasets.benchmark_layouts import COCO
from mmseg_semi.datasets.coco81_dataset import COCO81Dataset
from mmseg_semi.errors import reading
from mmseg_semi.prepare.conversion import (
    Task,
    check_count,
    conversion_parser,
    convert,
    find_folder,
    import_optional,
    leave_out_missing,
    report,
)
from mmseg_semi.prepare.instances import Instance, Instances, draw

COMPLETE = {'train2017': 118287, 'val2017': 5000}
LAYOUT = '{train2017,val2017}/*.jpg and annotations/instances_{train,val}2017.json'
THINGS = COCO81Dataset.METAINFO['classes'][1:]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = conversion_parser(__doc__)
    parser.add_argument(
        'root',
        nargs='?',
        default=COCO.default_root(),
        help='the folder of train2017, val2017 and annotations (default: %(default)s)',
    )
    parser.add_argument(
        '--overlap',
        choices=('smaller', 'ignore'),
        default='smaller',
        help='where objects overlap: the class of the smaller one (default), or 255',
    )
    parser.add_argument(
        '--crowd',
        choices=('class', 'ignore'),
        default='class',
        help='pixels of a crowd without an object: its class (default), or 255',
    )
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------ reading
def read_json(path: Path) -> dict[str, Any]:
    """Content of a file of instances."""
    with reading(path, SystemExit):
        content = json.loads(path.read_bytes())
    lists = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in lists):
        raise SystemExit(f'{path} is no COCO file: it must have the lists {", ".join(lists)}')
    return content


def class_numbers(path: Path, categories: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Class number of every category id."""
    ordered = sorted(categories, key=lambda category: category['id'])
    names = tuple(category['name'] for category in ordered)
    if names != THINGS:
        wrong = [f'{name} (not {thing})' for name, thing in zip(names, THINGS) if name != thing]
        raise SystemExit(
            f"{path} has {len(names)} categories, which are not COCO's {len(THINGS)} things"
            f'{": " + wrong[0] if wrong else ""}. Give the instances of COCO 2017.'
        )
    return {category['id']: number for number, category in enumerate(ordered, 1)}


def read_instances(path: Path, content: Mapping[str, Any]) -> dict[int, list[Instance]]:
    """Instances by image id."""
    numbers = class_numbers(path, content['categories'])
    images = {image['id'] for image in content['images']}
    found = defaultdict(list)
    for one in content['annotations']:
        image, category = one['image_id'], one['category_id']
        if image not in images or category not in numbers:
            raise SystemExit(
                f'{path}: annotation {one.get("id")} is of image {image} and category {category}; '
                'the file does not list both. Copy or unpack it anew.'
            )
        crowd = bool(one.get('iscrowd'))
        instance = Instance(numbers[category], float(one['area']), crowd, one['segmentation'])
        found[image].append(instance)
    return found


def make_tasks(root: Path, part: str, args: argparse.Namespace) -> list[Task]:
    """What to write of a part, when everything is there."""
    path = root / 'annotations' / f'instances_{part}.json'
    content = read_json(path)
    try:
        instances = read_instances(path, content)
        images = {one['file_name']: one for one in content['images']}
        there = set(os.listdir(root / part))
        missing = [str(root / part / name) for name in images.keys() - there]
        leave_out_missing(path, 'images', missing, args.partial)
        names = sorted(images.keys() & there)
        check_count(path, 'images', len(names), COMPLETE[part], args.partial)
        tasks = []
        for name in names:
            one, label = images[name], f'{path}, image {name}'
            found = instances.get(one['id'], [])
            source = Instances(label, one['height'], one['width'], found, args.overlap, args.crowd)
            output = root / 'semantic_masks' / part / f'{Path(name).stem}.png'
            tasks.append(Task(output, label, root / part / name, source))
    except (KeyError, TypeError) as error:
        raise SystemExit(
            f'{path} is no COCO file of instances: {type(error).__name__}: {error}. Copy it anew.'
        ) from error
    return tasks


def main(argv: Sequence[str] | None = None) -> None:
    """Check both parts, then draw."""
    args = parse_args(argv)
    import_optional('pycocotools.mask', 'drawing the masks')
    parts = [f'{part}/' for part in COMPLETE]
    parts += [f'annotations/instances_{part}.json' for part in COMPLETE]
    root = find_folder(args.root, ('',), parts, LAYOUT)
    tasks = [task for part in COMPLETE for task in make_tasks(root, part, args)]
    note = f'coco_masks overlap={args.overlap} crowd={args.crowd}'
    counts = convert(tasks, draw, note, workers=args.workers, overwrite=args.overwrite)
    report(root / 'semantic_masks', counts)
