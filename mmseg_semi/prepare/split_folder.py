"""Divide a folder into labeled, unlabeled, validation and test images: ``mmseg-semi split``.

``DIR/images`` has all images and ``DIR/annotations`` the masks of some, of the same name with
``.png``; both may have subfolders. Images without a mask become unlabeled, the others are divided
(see ``dividing``). The lists are ``DIR/splits/NAME/{labeled,unlabeled,val,test}.txt``, with
``split.json``, which has their hashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmseg_semi.datasets.image_files import IMG_SUFFIXES
from mmseg_semi.datasets.listed_files import files_by_name
from mmseg_semi.datasets.splits import same_names, split_hash
from mmseg_semi.errors import DataError, name_some
from mmseg_semi.files import check_there, list_text, read_json, write_files
from mmseg_semi.prepare.dividing import PARTS, Request, divide
from mmseg_semi.prepare.make_splits import classes_in
from mmseg_semi.utils.progress import track


def split_folder(root: Path, request: Request, overwrite: bool = False) -> str:
    """Write the lists of a folder.

    Args:
        root: Has ``images`` and ``annotations``.
        request: What is asked for.
        overwrite: Whether other lists of that name are replaced.

    Returns:
        What was done, for the user.

    Raises:
        DataError, ValueError: See ``files_by_name``, ``classes_in`` and ``divide``; a mask
            without an image; other lists are there.
    """
    request.check()
    for folder in (root / 'images', root / 'annotations'):
        remedy = 'mmseg-semi import-labels makes images and annotations.'
        check_there(folder, remedy, what='folder', error=DataError)
    images = sorted(files_by_name(str(root / 'images'), IMG_SUFFIXES))
    masks = files_by_name(str(root / 'annotations'), ('.png',))
    alone = sorted(masks.keys() - set(images))
    if alone:
        raise DataError(
            f'{root / "annotations"}: {len(alone)} masks have no image in {root / "images"} '
            f'({name_some(alone)}); give both the same name'
        )
    if not masks:
        raise DataError(f'{root / "annotations"} has no mask (*.png); put masks there')
    known = {}
    for name, file in track(sorted(masks.items()), 'masks'):
        found = classes_in(root / 'annotations' / file, None)
        if found.any():
            known[name] = found
    if request.group_by is None:
        request = replace(request, volumes=volumes_of(root))
    parts, left_out = divide(images, known, request)
    folder = root / 'splits' / request.name
    unchanged = _refuse_others(folder, parts, overwrite)
    if not unchanged:
        write_lists(folder, parts, request)
    return _said(folder, parts, known, len(masks) - len(known), left_out, unchanged, request)


def volumes_of(root: Path) -> frozenset[str]:
    """Volumes whose slices the images of a folder are, as ``import-labels`` has noted them."""
    file = root / 'classes.json'
    if not file.is_file():
        return frozenset()
    content = read_json(file, 'Run mmseg-semi import-labels again.', error=DataError)
    return frozenset(content.get('volumes', ()) if isinstance(content, dict) else ())


def _note(parts: Mapping[str, Sequence[str]], request: Request) -> dict[str, object]:
    """What ``split.json`` has; ``hash`` is the one that the log of a training names."""
    return dict(
        hash=split_hash(parts['labeled'], parts['unlabeled']),
        hash_of_val_and_test=split_hash(parts['val'], parts['test']),
        images={part: len(names) for part, names in parts.items()},
        labeled=request.labeled,
        val=request.val,
        test=request.test,
        seed=request.seed,
        group_by=request.group_by,
    )


def write_lists(folder: Path, parts: Mapping[str, Sequence[str]], request: Request) -> None:
    """Write the lists of the parts that have images, and remove those of the others."""
    texts = {part: list_text(names, DataError) for part, names in parts.items()}
    files = {folder / f'{part}.txt': text for part, text in texts.items() if text}
    files[folder / 'split.json'] = json.dumps(_note(parts, request), indent=1) + '\n'
    write_files(files)
    for part in (part for part, text in texts.items() if not text):
        (folder / f'{part}.txt').unlink(missing_ok=True)


def _refuse_others(folder: Path, parts: Mapping[str, Sequence[str]], overwrite: bool) -> bool:
    """Whether the same lists are there; other ones are refused."""
    paths = {part: folder / f'{part}.txt' for part in PARTS}
    same = {part: same_names(paths[part], parts[part]) for part in PARTS}
    other = [part for part in PARTS if same[part] is False]
    if other and not overwrite:
        raise DataError(
            f'{paths[other[0]]} exists and names other images; nothing was written. Give '
            '--overwrite to replace the lists, or another --seed.'
        )
    return all(same[part] or not parts[part] for part in PARTS) and not other


def _said(
    folder: Path,
    parts: Mapping[str, Sequence[str]],
    presence: Mapping[str, np.ndarray],
    unknown: int,
    left_out: Sequence[str],
    unchanged: bool,
    request: Request,
) -> str:
    """The parts with their classes, and what a user should know."""
    every = np.flatnonzero(np.any(list(presence.values()), axis=0))
    lines = [f'{folder}: {"unchanged" if unchanged else "written"}']
    for part in PARTS:
        rows = [presence[name] for name in parts[part] if name in presence]
        found = np.sum(rows, axis=0, dtype=int)[every] if rows else np.zeros(len(every), int)
        classes = ', '.join(f'{number}: {count}' for number, count in zip(every, found))
        shown = f'  images with class {classes}' if part != 'unlabeled' else ''
        lines.append(f'{part:9} {len(parts[part]):7}{shown}')
        lacking = every[found == 0]
        if part != 'unlabeled' and parts[part] and lacking.size:
            lines.append(
                f'WARNING: no {part} image has the class {name_some(list(map(str, lacking)))}'
            )
    lines += _nearest(parts, request, len(presence))
    if unknown:
        lines.append(f'{unknown} masks have no known pixel; their images are unlabeled')
    if left_out:
        lines.append(
            f'{len(left_out)} images without a mask are in no part, since their group is labeled, '
            f'validates or tests ({name_some(list(left_out))})'
        )
    return '\n'.join(lines)


def _nearest(parts: Mapping[str, Sequence[str]], request: Request, total: int) -> list[str]:
    """Which parts have other numbers of images than was asked for, since groups stay together."""
    asked = dict(labeled=request.labeled)
    asked.update(val=round(request.val * total), test=round(request.test * total))
    other = [
        f'{part} {len(parts[part])} in place of {number}'
        for part, number in asked.items()
        if len(parts[part]) != number
    ]
    text = f'groups stay together, so this is the nearest division: {", ".join(other)}'
    return [text] if other else []
