"""Short names for what files hold: whether they are those of before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .dataset_tree import data_infos, leaf_datasets

_SAMPLE = 16384
_HEX = 8  # digits for a file
_MOST_FILES, _MOST_READ = 1000, 256  # named one by one; looked into where there are more


def middle_digest(path: str) -> tuple[int, bytes]:
    """Size of a file and a digest of 16 KiB from its middle."""
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        file.seek(max(size - _SAMPLE, 0) // 2)
        return size, hashlib.blake2b(file.read(_SAMPLE)).digest()


def whole_digest(path: str) -> bytes:
    """Digest of all bytes of a file."""
    digest = hashlib.blake2b()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def digest_parts(
    labeled: Any, labeled_names: Sequence[str], unlabeled: Any, unlabeled_names: Sequence[str]
) -> dict[str, str]:
    """Digests of the labeled images and masks and of the unlabeled images.

    Wherever the files lie and whenever they were written, the digest of a part is the same as long
    as its names, sizes and contents are. Of masks all bytes count; of images 16 KiB from the
    middle, in parts of more than 1000 images those of 256 of them beside the sizes of all.

    Args:
        labeled: The labeled dataset.
        labeled_names: Its names, see ``dataset_names``.
        unlabeled: The unlabeled dataset, None for none.
        unlabeled_names: Likewise.

    Returns:
        A text by part: 8 hexadecimal digits for each file in the order of the names, in parts of
        more than 1000 files 8 for all; empty for files that no file system holds.
    """
    images, masks = (_paths(labeled, labeled_names, key) for key in ('img_path', 'seg_map_path'))
    others = [] if unlabeled is None else _paths(unlabeled, unlabeled_names, 'img_path')
    return {
        'labeled images': _digest_images(images),
        'labeled masks': _digest_files(masks, whole_digest),
        'unlabeled images': _digest_images(others),
    }


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest of all files in the folders of images and masks that a config names.

    Only the names below these folders and the contents count, see :func:`digest_parts`. The same
    folder is looked at once in a process.

    Args:
        config: Anything with datasets in it, as dicts that have ``data_root`` and ``data_prefix``.
    """
    return _digest_folders(tuple(dict.fromkeys(_folders(config))))


@lru_cache
def _digest_folders(folders: tuple[tuple[str, Path], ...]) -> str:
    found = []
    for kind, folder in folders:
        walked = os.walk(folder)
        paths = sorted(os.path.join(at, name) for at, _, names in walked for name in names)
        names = [os.path.relpath(path, folder) for path in paths]
        files = _digest_images(paths) if kind == 'img_path' else _digest_files(paths, whole_digest)
        found.append((kind, names, files))
    return _short(found)


def _folders(node: Any) -> Iterator[tuple[str, Path]]:
    """Kind and path of each folder, in the order of the config."""
    if isinstance(node, Mapping):
        root, prefixes = node.get('data_root'), node.get('data_prefix')
        if isinstance(root, str) and isinstance(prefixes, Mapping):
            yield from ((kind, Path(root, one)) for kind, one in prefixes.items() if one)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for one in node:
            yield from _folders(one)


def changed_files(old: str, new: str, dataset: Any, names: Sequence[str], key: str) -> list[str]:
    """The files of a part whose digests differ; none where they have one for all.

    Args:
        old: Digest of the part before.
        new: Its digest now.
        dataset: The dataset of the part.
        names: Its names.
        key: ``'img_path'`` or ``'seg_map_path'``.
    """
    paths = _paths(dataset, names, key)
    if not len(old) == len(new) == _HEX * len(paths):
        return []
    starts = range(0, len(new), _HEX)
    return [p for p, i in zip(paths, starts) if old[i : i + _HEX] != new[i : i + _HEX]]


def _paths(dataset: Any, names: Sequence[str], key: str) -> list[str]:
    infos = (info for leaf in leaf_datasets(dataset) for info in data_infos(leaf))
    pairs = sorted(zip(names, (info.get(key) or '' for info in infos)))
    return [path for _, path in pairs if path]


def _digest_images(paths: Sequence[str]) -> str:
    if len(paths) <= _MOST_FILES:
        return _digest_files(paths, middle_digest)
    try:
        sizes = [os.stat(path).st_size for path in paths]
        looked = [middle_digest(path) for path in paths[:: -(-len(paths) // _MOST_READ)]]
    except OSError:
        return ''
    return _short((sizes, looked))


def _digest_files(paths: Sequence[str], digest: Callable[[str], Any]) -> str:
    try:
        found = [_short(digest(path)) for path in paths]
    except OSError:  # not in files of this machine, or not there
        return ''
    return ''.join(found) if len(found) <= _MOST_FILES else _short(found)


def _short(content: Any) -> str:
    return hashlib.blake2b(repr(content).encode()).hexdigest()[:_HEX]
