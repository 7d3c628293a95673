"""Are validation, test or labeled images among those that are trained on?"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmseg_semi.errors import name_some
from mmseg_semi.files import is_local

from .dataset_tree import data_infos, leaf_datasets
from .file_digests import middle_digest, whole_digest
from .file_records import MaskRecord, ThumbnailRecord, look_at, read_mask
from .mask_checks import Findings

_SIDE, _LEAST_CORRELATION, _MOST_LEVELS, _LEAST_CONTRAST = 12, 0.98, 6.0, 3.0  # of thumbnails
_ROWS = 1024  # of a table of correlations that are computed at once


def find_copies(paths: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Find files that are the same file or have the same content as one of ``others``.

    Links are followed. Only files of equal size are read, and all of a file only when 16 KiB from
    its middle agree. Files that do not exist are left out.

    Args:
        paths: Files to look at.
        others: Files to compare with.

    Returns:
        ``{path: its equal among others}``.
    """
    by_file: dict[tuple[int, int], str] = {}
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in dict.fromkeys(others):
        if stat := _stat(path):
            by_file.setdefault((stat.st_dev, stat.st_ino), path)
            by_size[stat.st_size].append(path)
    found, ours = {}, []
    for path in dict.fromkeys(paths) if by_file else ():
        if stat := _stat(path):
            same = by_file.get((stat.st_dev, stat.st_ino))
            if same is not None:
                found[path] = same
            elif stat.st_size in by_size:
                ours.append(path)
    theirs = [path for several in by_size.values() for path in several]
    # Each step compares more of the files and has fewer of them to compare.
    for key in (middle_digest, whole_digest):
        pairs = _equal_groups(ours, theirs, key)
        ours = sorted({path for mine, _ in pairs for path in mine})
        theirs = sorted({path for _, other in pairs for path in other})
    found.update({path: other[0] for mine, other in pairs for path in mine})
    return found


def check_overlap(labeled: Any, unlabeled: Any | None, heldout: Sequence[Any]) -> Findings:
    """Look for validation and test data in what is trained on, and for labeled images twice.

    Args:
        labeled: The labeled dataset.
        unlabeled: The unlabeled one, None for none.
        heldout: Validation and test datasets.

    Returns:
        Errors: images of either part that are validation or test images (the same file, links
        followed, or byte-wise copies), and such masks (the same file). Warnings: labeled images
        that only look like them, masks with several values that are copies, and unlabeled images
        that are labeled ones.
    """
    out = Findings()
    images, masks = local_paths([labeled], 'img_path'), local_paths([labeled], 'seg_map_path')
    held, held_masks = local_paths(heldout, 'img_path'), local_paths(heldout, 'seg_map_path')
    copies = find_copies(images, held)
    _add_overlap(out, 'labeled', images, copies, 'images')
    mask_copies = find_copies(masks, held_masks)
    same = {a: b for a, b in mask_copies.items() if os.path.samefile(a, b)}
    _add_overlap(out, 'labeled', masks, same, 'masks')
    alike = find_similar([path for path in images if path not in copies], held)
    if not copies:  # else their masks are copies as a matter of course
        others = [path for path in mask_copies if path not in same]
        records = look_at(others, read_mask, MaskRecord, 'masks')
        alike.update((p, mask_copies[p]) for p, r in zip(others, records) if len(r.values) > 1)
    if alike:
        names = name_some([f'{a} and {b}' for a, b in sorted(alike.items())])
        out.warnings.append(
            f'labeled: {len(alike)} images or masks look like validation or test ones, so scores '
            f'may not be honest: {names}. Compare them, and take copies out of one of the parts.'
        )
    if unlabeled is not None:
        paths, known = local_paths([unlabeled], 'img_path'), {*held}
        found = find_copies(paths, [*held, *images])
        leaked = {path: other for path, other in found.items() if other in known}
        _add_overlap(out, 'unlabeled', paths, leaked, 'images')
        if len(found) > len(leaked):
            out.warnings.append(
                f'{len(found) - len(leaked)} images of the unlabeled part are labeled images too. '
                'They are trained on twice; take them out of the unlabeled folder or list if that '
                'is not wanted.'
            )
    return out


def local_paths(datasets: Sequence[Any], name: str) -> list[str]:
    """A path of every sample, of data that a file system holds; each once."""
    leaves = (leaf for dataset in datasets for leaf in leaf_datasets(dataset))
    local = (leaf for leaf in leaves if is_local(getattr(leaf, 'backend_args', None)))
    infos = (info for leaf in local for info in data_infos(leaf))
    return list(dict.fromkeys(info[name] for info in infos if info.get(name)))


def _add_overlap(
    out: Findings, part: str, paths: Sequence[str], copies: Mapping[str, str], what: str
) -> None:
    if copies:
        names = [a if a == b else f'{a} (= {b})' for a, b in sorted(copies.items())]
        out.errors.append(
            f'{part}: {len(names)} of {len(paths)} {what} are validation or test {what}, so scores '
            f'would not be honest: {name_some(names)}. Take them out of the {part} folder, or list '
            f'the images to use in a list file ({part}.ann_file). To go on all the same, give '
            "DataCheckHook on_overlap='warn' in custom_hooks."
        )


def find_similar(paths: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Find images that look like one of ``others``: saved anew, or in another size or format.

    Images are compared as 12 x 12 gray pixels, whose correlation must be 0.98 at least, with a
    difference of 6 levels at most on average. Images of nearly one color are left out.

    Args:
        paths: Images to look at.
        others: Images to compare with.

    Returns:
        ``{path: that of others which it looks like most}``.
    """
    ours, our_pixels = _thumbnails(paths)
    theirs, their_pixels = _thumbnails(others)
    their_vectors = _unit_vectors(their_pixels)
    found: dict[str, str] = {}
    for start in range(0, len(ours) if theirs else 0, _ROWS):
        pixels = our_pixels[start : start + _ROWS]
        correlation = _unit_vectors(pixels) @ their_vectors.T
        best = correlation.argmax(1)
        for i in np.flatnonzero(correlation.max(1) >= _LEAST_CORRELATION):
            difference = np.abs(pixels[i].astype(float) - their_pixels[best[i]]).mean()
            if difference <= _MOST_LEVELS:
                found[ours[start + i]] = theirs[best[i]]
    return found


def read_thumbnail(path: str) -> ThumbnailRecord:
    """Shrink an image to 12 x 12 gray pixels."""
    try:
        with Image.open(path) as image:
            image.draft('L', (8 * _SIDE, 8 * _SIDE))  # JPEG decodes less of itself
            small = image.convert('L').resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except Exception as error:  # unreadable images are named elsewhere
        return ThumbnailRecord(type(error).__name__)
    return ThumbnailRecord(None, small.tobytes().hex())


def _thumbnails(paths: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Images with enough contrast, and their pixels, uint8 (N, 144)."""
    records = look_at(paths, read_thumbnail, ThumbnailRecord, 'images, for copies among them')
    known = {path: bytes.fromhex(one.pixels) for path, one in zip(paths, records) if not one.reason}
    pixels = np.frombuffer(b''.join(known.values()), np.uint8).reshape(-1, _SIDE * _SIDE)
    varied = pixels.std(axis=1, dtype=np.float32) >= _LEAST_CONTRAST
    return [path for path, one in zip(known, varied) if one], pixels[varied]


def _unit_vectors(pixels: np.ndarray) -> np.ndarray:
    vectors = pixels - pixels.mean(axis=1, keepdims=True, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _equal_groups(
    ours: list[str], theirs: list[str], key: Callable[[str], Hashable]
) -> list[tuple[list[str], list[str]]]:
    groups: dict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for i, paths in enumerate((ours, theirs) if ours else ()):
        for path in paths:
            groups[key(path)][i].append(path)
    return [group for group in groups.values() if all(group)]
