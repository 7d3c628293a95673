"""What the labeled datasets of mmseg find: lists read as all others are, and files left out."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from mmseg_semi.errors import name_some
from mmseg_semi.files import is_local, read_list

from .dataset_tree import image_paths, leaf_datasets
from .findings import Finding, Findings
from .image_files import IMG_SUFFIXES

_load_data_list = BaseSegDataset.load_data_list


def read_lists_alike() -> None:
    """Let ``BaseSegDataset`` and its subclasses read their lists by :func:`read_list`.

    mmseg's own reader takes byte order marks, comments and blank lines for names, and an image
    that is named twice for two. ``img_suffix`` may be several here, upper and lower case alike, for
    a folder of mixed kinds.
    """
    BaseSegDataset.load_data_list = load_data_list


def load_data_list(dataset: BaseSegDataset) -> list[dict[str, Any]]:
    """List the samples of a dataset of mmseg, those of its list file or all of its folder.

    Of a folder, hidden files and those in hidden folders (``.ipynb_checkpoints``) are left out.

    Raises:
        ValueError: A list that is no UTF-8 text or names nothing; no image in the folder; no
            suffix; with several, two images of one name, or files of a file client.
    """
    several = not isinstance(dataset.img_suffix, str)
    if several and not dataset.img_suffix:
        raise ValueError(
            f"img_suffix={dataset.img_suffix!r}: give a suffix or several, such as ('.jpg', '.png')"
        )
    if not is_local(dataset.backend_args):
        if several:
            raise ValueError(
                f'img_suffix is {dataset.img_suffix!r}, but files that no file system holds '
                '(backend_args) must have one suffix: set it to that one'
            )
        return _load_data_list(dataset)
    if dataset.ann_file and os.path.isfile(dataset.ann_file):
        return _listed(dataset)
    folder = dataset.data_prefix.get('img_path') or '.'
    every = _of_folder(dataset, folder) if several else _load_data_list(dataset)
    infos = [one for one in every if not _is_hidden(one['img_path'], folder)]
    if len(infos) < len(every):
        print_log(
            f'{len(every) - len(infos)} images in hidden folders of {folder} are left out',
            logger='current',
            level=logging.WARNING,
        )
    if not infos:
        there = Counter(os.path.splitext(name)[1] for name in _files(folder))
        found = name_some([f'{count} files *{suffix}' for suffix, count in there.most_common()])
        text = (
            f'{type(dataset).__name__}: no image was found, because the folder {folder} has no '
            f'file that ends in img_suffix={dataset.img_suffix!r} (it has {found or "no file"}).'
        )
        remedy = (
            'Correct data_root, data_prefix.img_path or img_suffix, upper and lower case as they '
            'are.'
        )
        raise ValueError(Finding(5, text, remedy))
    return infos


def _listed(dataset: BaseSegDataset) -> list[dict[str, Any]]:
    lines = [line for _, line in read_list(dataset.ann_file, type(dataset).__name__)]
    names = list(dict.fromkeys(lines))
    if len(names) < len(lines):
        print_log(
            f'ann_file: {dataset.ann_file} names {len(lines) - len(names)} images more than once; '
            'each is taken once',
            logger='current',
            level=logging.WARNING,
        )
    if isinstance(dataset.img_suffix, str):
        return [_info(dataset, name, name + dataset.img_suffix) for name in names]
    there = files_by_name(dataset.data_prefix.get('img_path') or '.', dataset.img_suffix)
    missing = dataset.img_suffix[0]
    return [_info(dataset, name, there.get(name, name + missing)) for name in names]


def _of_folder(dataset: BaseSegDataset, folder: str) -> list[dict[str, Any]]:
    """All images of a folder, with several suffixes."""
    found = files_by_name(folder, dataset.img_suffix)
    return [_info(dataset, name, file) for name, file in sorted(found.items())]


def _info(dataset: BaseSegDataset, name: str, file: str) -> dict[str, Any]:
    """A sample as mmseg has it.

    Args:
        dataset: Its dataset.
        name: Its name, without suffix.
        file: Its image below the folder of images.
    """
    image_dir = dataset.data_prefix.get('img_path') or ''
    mask_dir = dataset.data_prefix.get('seg_map_path')
    info: dict[str, Any] = dict(img_path=os.path.join(image_dir, file))
    if mask_dir is not None:
        info['seg_map_path'] = os.path.join(mask_dir, name + dataset.seg_map_suffix)
    info['label_map'] = dataset.label_map
    info['reduce_zero_label'] = dataset.reduce_zero_label
    info['seg_fields'] = []
    return info


def suffixes_there(folder: str, suffixes: Sequence[str]) -> set[str]:
    """Suffixes, as they are written, of a folder's files that have one of several."""
    known = tuple(suffix.lower() for suffix in suffixes)
    return {
        file[-len(suffix) :]
        for file in _files(folder)
        for suffix in known
        if file.lower().endswith(suffix)
    }


def files_by_name(folder: str, suffixes: Sequence[str]) -> dict[str, str]:
    """Files of a folder and those below it, relative to it, by their names without suffix.

    Args:
        folder: Hidden files and folders are left out.
        suffixes: Of the files that count, upper and lower case alike.

    Raises:
        ValueError: Two differ in their suffix alone.
    """
    known = tuple(suffix.lower() for suffix in suffixes)
    found: dict[str, str] = {}
    for file in sorted(_files(folder)):
        ending = [suffix for suffix in known if file.lower().endswith(suffix)]
        if not ending:
            continue
        name = file[: -len(max(ending, key=len))].replace(os.sep, '/')
        if name in found:
            text = (
                f'{folder} has {found[name]} and {file}, which differ in their suffix alone, so '
                'that one mask would be of both:'
            )
            remedy = 'rename one, or name one suffix in img_suffix'
            raise ValueError(Finding(8, text, remedy, [found[name], file]))
        found[name] = file
    return found


def check_left_out(leaf: Any, key: str) -> None:
    """Refuse labeled images of a folder that its ``img_suffix`` leaves out, and name lone masks.

    Args:
        leaf: An unwrapped dataset.
        key: Its config key, for messages.

    Raises:
        ValueError: See :func:`left_out`.
    """
    found = left_out(leaf, key)
    for text in found.warnings:
        print_log(text, logger='current', level=logging.WARNING)
    if found.errors:
        raise ValueError(found.errors[0])


def left_out(leaf: Any, key: str) -> Findings:
    """Images of a folder that its ``img_suffix`` leaves out, and masks without an image.

    A dataset with a list file leaves out what it does not name, and is not looked at.

    Args:
        leaf: An unwrapped dataset.
        key: Its config key, for messages.

    Returns:
        An error where such images have a mask, or differ in upper and lower case alone; others and
        masks without an image are warnings.
    """
    out = Findings()
    image_dir = isinstance(leaf, BaseSegDataset) and leaf.data_prefix.get('img_path')
    if not image_dir or leaf.ann_file or not leaf.img_suffix:
        return out
    mask_dir, suffix = leaf.data_prefix.get('seg_map_path'), leaf.seg_map_suffix
    masks = _stems(mask_dir, suffix) if mask_dir and suffix else set()
    if isinstance(leaf.img_suffix, str):
        images = _stems(image_dir, leaf.img_suffix)
        others = _other_images(image_dir, leaf.img_suffix, mask_dir or '', suffix or '')
    else:
        names = files_by_name(image_dir, leaf.img_suffix)
        images, others = {name.replace('/', os.sep) for name in names}, []
    if others:
        ends = ', '.join(sorted({os.path.splitext(name)[1] for name in others}))
        text = (
            f'{key}: {len(others)} files of {image_dir} end in {ends} and would not be used with '
            f'img_suffix={leaf.img_suffix!r}: {name_some(others)}.'
        )
        remedy = (
            'Give all images one suffix, upper and lower case alike, or name those to use in a '
            'list file (ann_file).'
        )
        lower = leaf.img_suffix.lower()
        wrong = any(os.path.splitext(n)[0] in masks or n.lower().endswith(lower) for n in others)
        files = [os.path.join(image_dir, name) for name in others]
        (out.errors if wrong else out.warnings).append(Finding(8, text, remedy, files))
    others_names = {os.path.splitext(name)[0] for name in others}
    lone = sorted(name + suffix for name in masks - images - others_names)
    if lone:
        text = f'{key}: {len(lone)} masks of {mask_dir} have no image: {name_some(lone)}.'
        remedy = 'A mask has the name of its image: rename it, add the image or remove the mask.'
        files = [os.path.join(mask_dir, name) for name in lone]
        out.warnings.append(Finding(9, text, remedy, files))
    return out


def masks_of_unlabeled(labeled: Any, unlabeled: Any) -> list[Finding]:
    """Say whether there are masks of unlabeled images, which nothing reads.

    They are looked for in the masks' folder of the labeled part, and where it has that of the other
    folder of images (``annotations/unlabeled`` beside ``annotations/labeled``).

    Args:
        labeled: The labeled dataset.
        unlabeled: The unlabeled one.
    """
    found: list[str] = []
    for leaf in leaf_datasets(labeled):
        prefix = getattr(leaf, 'data_prefix', {})
        images, masks = (prefix.get(name) for name in ('img_path', 'seg_map_path'))
        suffix = getattr(leaf, 'seg_map_suffix', None)
        if (
            not images
            or not masks
            or not suffix
            or not is_local(getattr(leaf, 'backend_args', None))
        ):
            continue
        for other in leaf_datasets(unlabeled):
            folder = other.data_prefix.get('img_path') or '.'
            same = os.path.abspath(folder) == os.path.abspath(images)
            beside = os.path.join(os.path.dirname(masks), os.path.basename(folder))
            there = masks if same else beside
            stems = _stems(there, suffix) if os.path.isdir(there) else set()
            names = (os.path.relpath(path, folder) for path in image_paths(other) if stems)
            stems &= {os.path.splitext(name)[0] for name in names}
            found += [os.path.join(there, stem + suffix) for stem in sorted(stems)]
    found = list(dict.fromkeys(found))
    text = f'there are masks of {len(found)} unlabeled images, which are not used: '
    remedy = 'Nothing, if they are kept back on purpose; else make these images labeled ones.'
    return [Finding(49, f'{text}{name_some(found)}.', remedy, found)] if found else []


def _is_hidden(path: str, folder: str) -> bool:
    parts = os.path.relpath(path, folder).split(os.sep)
    return any(part.startswith('.') and part not in ('.', '..') for part in parts)


def _stems(folder: str, suffix: str) -> set[str]:
    return {name[: -len(suffix)] for name in _files(folder) if name.endswith(suffix)}


def _other_images(image_dir: str, img_suffix: str, mask_dir: str, mask_suffix: str) -> list[str]:
    """Images of a folder that end otherwise; masks may lie in the same folder or below it."""
    names = [
        name
        for name in _files(image_dir)
        if name.lower().endswith(IMG_SUFFIXES) and not name.endswith(img_suffix)
    ]
    inside = os.path.join(os.path.abspath(mask_dir), '') if mask_dir else ''
    return sorted(
        name
        for name in names
        if not (
            inside
            and name.endswith(mask_suffix)
            and os.path.abspath(os.path.join(image_dir, name)).startswith(inside)
        )
    )


def _files(folder: str) -> Iterator[str]:
    """Files of a folder and those below it, relative to it, but for hidden ones."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith('.')]
        inside = os.path.relpath(root, folder)
        for name in names:
            if not name.startswith('.'):
                yield name if inside == '.' else os.path.join(inside, name)
