"""Are validation, test or labeled images among those that are trained on?"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmseg_semi.errors import name_some
from mmseg_semi.files import is_local

from .dataset_tree import data_infos, leaf_datasets
from .file_digests import middle_digest, whole_digest
from .file_records import MaskRecord, look_at, read_mask
from .findings import Finding, Findings
from .near_duplicates import Looks, find_similar
from .part_checks import Part
from .semi_dataset import SemiDataset

_HARMLESS = {
    36: 'Nothing, unless one scene is to count once.',
    38: 'Nothing, but they teach less than as many different ones.',
}


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
    by_file: dict[int, str] = {}
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in dict.fromkeys(others):
        if stat := _stat(path):
            by_file.setdefault(hash((stat.st_dev, stat.st_ino)), path)
            by_size[stat.st_size].append(path)
    found, ours = {}, []
    for path in dict.fromkeys(paths) if by_file else ():
        if stat := _stat(path):
            same = by_file.get(hash((stat.st_dev, stat.st_ino)))
            if same is not None and os.path.samefile(path, same):
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


def check_overlap(
    labeled: Any, unlabeled: Any | None, heldout: Sequence[Any], looks: bool = False
) -> Findings:
    """Look for validation and test data in what is trained on, and for labeled images twice.

    Args:
        labeled: The labeled dataset.
        unlabeled: The unlabeled one, None for none.
        heldout: Validation and test datasets.
        looks: Whether unlabeled images are compared by their looks too, and labeled ones with each
            other, which takes longer.

    Returns:
        Errors: images of either part that are validation or test images (the same file, links
        followed, or byte-wise copies), and such masks (the same file). Warnings: images that only
        look like them, masks with several values that are copies, and unlabeled images that are
        labeled ones. Notes: images of either part that look like labeled ones.
    """
    out = Findings()
    images, held = local_paths([labeled], 'img_path'), local_paths(heldout, 'img_path')
    labeled_looks, held_looks = Looks(images), Looks(held)
    copies = find_copies(images, held)
    _add_overlap(out, 'labeled', images, copies, 'images')
    alike = find_similar(labeled_looks, held_looks)
    alike = {path: other for path, other in alike.items() if path not in copies}
    alike.update(_check_masks(out, labeled, heldout, bool(copies)))
    out.warnings += _alike(33, 'labeled', alike, 'validation or test')
    if looks:
        pairs = find_similar(labeled_looks, labeled_looks)
        pairs = {path: other for path, other in pairs.items() if path > other}
        out.notes += _alike(38, 'labeled', pairs, 'other labeled')
    if unlabeled is None:
        return out
    paths, known = local_paths([unlabeled], 'img_path'), {*held}
    found = find_copies(paths, [*held, *images])
    leaked = {path: other for path, other in found.items() if other in known}
    _add_overlap(out, 'unlabeled', paths, leaked, 'images')
    twice = sorted(found.keys() - leaked.keys())
    if twice:
        text = (
            f'{len(twice)} images of the unlabeled part are labeled images too. They are trained '
            f'on twice: {name_some(twice)}.'
        )
        remedy = 'Take them out of the unlabeled folder or list if that is not wanted.'
        out.warnings.append(Finding(35, text, remedy, twice))
    if looks:
        ours = Looks([path for path in paths if path not in found])
        alike = find_similar(ours, held_looks)
        out.warnings += _alike(34, 'unlabeled', alike, 'validation or test')
        out.notes += _alike(36, 'unlabeled', find_similar(ours, labeled_looks), 'labeled')
    return out


def _check_masks(
    out: Findings, labeled: Any, heldout: Sequence[Any], images: bool
) -> dict[str, str]:
    """Name labeled masks that are validation or test ones.

    Args:
        out: Gets an error of masks that are the same file.
        labeled: The labeled dataset.
        heldout: Validation and test datasets.
        images: Whether images are copies, so that their masks are as a matter of course.

    Returns:
        Masks with several values that are copies, and of what.
    """
    masks = local_paths([labeled], 'seg_map_path')
    copies = find_copies(masks, local_paths(heldout, 'seg_map_path'))
    same = {a: b for a, b in copies.items() if os.path.samefile(a, b)}
    _add_overlap(out, 'labeled', masks, same, 'masks')
    others = [path for path in copies if path not in same and not images]
    records = look_at(others, read_mask, MaskRecord, 'masks')
    return {p: copies[p] for p, one in zip(others, records) if len(one.values) > 1}


def check_heldout(val: Any, test: Any) -> Findings:
    """Look for validation images in a test part that is another one.

    Args:
        val: The validation dataset.
        test: The test dataset.

    Returns:
        A warning of the test images that are validation images, copies of them or look like them.
    """
    held, paths = local_paths([val], 'img_path'), local_paths([test], 'img_path')
    found = find_copies(paths, held)
    found.update(find_similar(Looks([path for path in paths if path not in found]), Looks(held)))
    return Findings(warnings=_alike(37, 'test', found, 'validation'))


def _alike(kind: int, part: str, pairs: Mapping[str, str], others: str) -> list[Finding]:
    """Name images of a part that look like others."""
    if not pairs:
        return []
    names = name_some([f'{a} and {b}' for a, b in sorted(pairs.items())])
    what = 'images' if kind != 33 else 'images or masks'
    honest = '' if kind in _HARMLESS else ', so scores may not be honest'
    text = f'{part}: {len(pairs)} {what} look like {others} ones{honest}: {names}.'
    remedy = _HARMLESS.get(kind, 'Compare them, and take copies out of one of the parts.')
    return [Finding(kind, text, remedy, sorted(pairs))]


def training_parts(dataset: Any, key: str) -> list[Part]:
    """The labeled and the unlabeled part of a training dataset.

    Args:
        dataset: A ``SemiDataset``, or labeled images alone.
        key: Config key of the labeled part.
    """
    semi = isinstance(dataset, SemiDataset)
    skip = semi and dataset.on_error == 'skip'
    parts = [Part(key, dataset.labeled if semi else dataset, 'train', skip)]
    if semi and dataset.unlabeled is not None:
        parts.append(
            Part('train_dataloader.dataset.unlabeled', dataset.unlabeled, 'unlabeled', skip)
        )
    return parts


def check_parts_overlap(
    parts: Sequence[Part], heldout: Sequence[Any], looks: bool = False
) -> Findings:
    """``check_overlap`` of what :func:`training_parts` gives.

    Args:
        parts: The labeled part and perhaps the unlabeled one.
        heldout: Validation and test datasets.
        looks: Whether unlabeled images are compared by their looks too.
    """
    labeled, *others = (part.dataset for part in parts)
    return check_overlap(labeled, others[0] if others else None, heldout, looks)


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
        text = (
            f'{part}: {len(names)} of {len(paths)} {what} are validation or test {what}, so scores '
            f'would not be honest: {name_some(names)}.'
        )
        remedy = (
            f'Take them out of the {part} folder, or list the images to use in a list file '
            f"({part}.ann_file). To go on all the same, give DataCheckHook on_overlap='warn' in "
            'custom_hooks.'
        )
        kind = 32 if part == 'unlabeled' else 31
        out.errors.append(Finding(kind, text, remedy, sorted(copies)))


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _equal_groups(
    ours: list[str], theirs: list[str], key: Callable[[str], Hashable]
) -> list[tuple[list[str], list[str]]]:
    if not ours:
        return []
    names, others = ([_short(key(path)) for path in paths] for paths in (ours, theirs))
    both = {*np.intersect1d(np.array(names, np.uint64), np.array(others, np.uint64)).tolist()}
    groups: dict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for i, (paths, keys) in enumerate(((ours, names), (theirs, others))):
        for path, one in zip(paths, keys):
            if one in both:
                groups[one][i].append(path)
    return list(groups.values())


def _short(key: Hashable) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), 'little')
