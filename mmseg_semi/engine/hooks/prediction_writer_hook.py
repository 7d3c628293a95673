"""Label maps and pictures of predictions, one file an image, named as the image is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from PIL import Image

from mmseg_semi.datasets.dataset_tree import image_paths, leaf_datasets

from .prediction_picture_hook import draw_prediction

PREDICTIONS = {'pred_sem_seg': '', 'teacher_pred_sem_seg': 'teacher'}


@HOOKS.register_module()
class PredictionWriterHook(Hook):
    """Write what a test predicts; ``tools/test.py --out`` and ``--show-dir``.

    ``images/a/b.jpg`` becomes ``a/b.png``, where ``images`` is the image folder of the data set;
    images of one folder that would have the same file keep their suffix (``b.jpg.png``). With
    ``predict_with='both'`` the teacher's are in the folder ``teacher``. A label map has the class
    numbers in 8 bits (16 from 256 classes on), with the numbers of the masks: one more where
    ``reduce_zero_label`` is set.

    Args:
        out_dir: Folder of the label maps, None for none.
        show_dir: Folder of the pictures: image, truth where there is one, and prediction, with
            titles and a legend.
        data_folders: Folders of images and masks, whose files are never replaced; nor are the
            images that are predicted.

    Raises:
        ValueError: A file would lie outside of its folder, because a folder in it is a link, or in
            the place of another one.
    """

    def __init__(
        self,
        out_dir: str | None = None,
        show_dir: str | None = None,
        data_folders: Sequence[str] = (),
    ) -> None:
        self.out_dir, self.show_dir = out_dir, show_dir
        self.data_folders = tuple(data_folders)
        self.names: dict[str, str] = {}
        self._reduced = False

    def before_test(self, runner: Any) -> None:
        """Name the files of all images."""
        dataset = runner.test_dataloader.dataset
        prefixes = [getattr(leaf, 'data_prefix', None) or {} for leaf in leaf_datasets(dataset)]
        roots = [prefix.get('img_path', '') for prefix in prefixes]
        self.names = output_names(image_paths(dataset), roots)
        self._reduced = bool(getattr(dataset, 'metainfo', {}).get('reduce_zero_label'))
        inside = [name for name in self.names.values() if name.startswith('teacher/')]
        if inside and (getattr(runner.model, 'test_cfg', None) or {}).get('predict_with') == 'both':
            raise ValueError(
                "--predict-with both writes the teacher's predictions into the folder 'teacher', "
                f'where those of {len(inside)} images would be, the first {inside[0]}: predict '
                'with one network at a time.'
            )
        self._check_places()

    def _check_places(self) -> None:
        images = {os.path.realpath(path) for path in self.names}
        of_data = tuple(f'{folder}{os.sep}' for folder in self.data_folders)
        names = dict.fromkeys(self.names.values())
        shown = [] if self.show_dir is None else [os.path.join(self.show_dir, n) for n in names]
        maps = []
        if self.out_dir is not None:
            folders = [os.path.join(self.out_dir, part) for part in PREDICTIONS.values()]
            maps = [os.path.join(*pair) for pair in itertools.product(folders, names)]
        for path in [*shown, *maps]:
            there = os.path.realpath(path)
            if there in images or (there.startswith(of_data) and os.path.lexists(there)):
                what = 'an image that is predicted' if there in images else 'an image or mask'
                raise ValueError(
                    f'{path} would be written in the place of {what} of the data: name another '
                    'folder with --out or --show-dir.'
                )
        both = {os.path.realpath(path) for path in shown} & {os.path.realpath(p) for p in maps}
        if both:
            raise ValueError(
                f'--out and --show-dir would both write {min(both)}: name two folders, so that '
                'label maps and pictures do not take the place of each other.'
            )

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Write those of a batch."""
        for sample in outputs or ():
            name = self.names[sample.img_path]
            for key, folder in PREDICTIONS.items():
                if self.out_dir is not None and key in sample:
                    labels = getattr(sample, key).data.squeeze(0).cpu().numpy()
                    path = inside_folder(os.path.join(self.out_dir, folder), name)
                    write_label_map(path, labels + 1 if self._reduced else labels)
            if self.show_dir is not None:
                picture = draw_prediction(sample, runner.test_dataloader.dataset)
                path = inside_folder(self.show_dir, name)
                write_png(path, picture)


def data_folders(node: Any) -> Iterator[str]:
    """Folders of images and masks that a config names."""
    if isinstance(node, Mapping):
        for inner in (node.get('data_prefix') or {}).values():
            if inner is not None:
                yield os.path.realpath(os.path.join(node.get('data_root') or '', inner))
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for one in node:
            yield from data_folders(one)


def output_names(paths: Iterable[str], roots: Sequence[str]) -> dict[str, str]:
    """Name the file of each image: different ones for different images, below one folder.

    Args:
        paths: Images.
        roots: Folders of images; names are relative to the deepest folder that holds them all. An
            image outside has its whole path as its name.

    Returns:
        ``{path: name}``, names ending in ``.png``.

    Raises:
        ValueError: Two images can not have files of their own.
    """
    folders = [os.path.abspath(root) for root in roots if root]
    root = os.path.commonpath(folders) if folders else os.path.abspath('')
    plain: dict[str, str] = {}
    images: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        whole = os.path.abspath(path)
        inside = os.path.commonpath([root, whole]) == root
        name = os.path.relpath(whole, root) if inside else whole.lstrip(os.sep)
        plain[path] = name.replace(os.sep, '/')
        if images.setdefault(plain[path], whole) != whole:
            _refuse_clash(whole, images[plain[path]])
    names = {name: f'{os.path.splitext(name)[0]}.png' for name in images}
    clashing = _clashes(names)
    while clashing:  # the longer name may be that of another image: b.jpg.png
        longer = {name: f'{name}.png' for name in clashing}
        if longer.items() <= names.items():
            first, second = next(iter(clashing.items()))
            _refuse_clash(images[first], images[second])
        names.update(longer)
        clashing = _clashes(names)
    return {path: names[name] for path, name in plain.items()}


def _clashes(names: Mapping[str, str]) -> dict[str, str]:
    """Images whose file is that of another one, or a folder of its file, with that other one."""
    owners: dict[str, str] = {}
    found = {}
    for image, name in names.items():
        other = owners.setdefault(name, image)
        if other != image:
            found.update({image: other, other: image})
    for image, name in names.items():
        folder = os.path.dirname(name)
        while folder:
            if folder in owners:
                found[owners[folder]] = image
            folder = os.path.dirname(folder)
    return found


def _refuse_clash(first: str, second: str) -> NoReturn:
    raise ValueError(
        f'the predictions of {first} and {second} would be the same file, or one a folder of the '
        'other: rename one of the two images, or predict them in two runs.'
    )


def inside_folder(folder: str, name: str) -> Path:
    """Where a file goes, its folder made.

    Raises:
        ValueError: A link leads out of the folder.
    """
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f'{path} would be written outside of {folder}, because a folder in it is a link to '
            f'{path.parent.resolve()}: remove the link, or name another folder.'
        )
    return path


def write_label_map(path: Path, labels: np.ndarray) -> None:
    """Write class numbers (H, W) as a PNG of 8 or, where they need them, 16 bits."""
    write_png(path, labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16))


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a PNG, whole or not at all; two ranks may write the same one."""
    part = path.with_name(f'{path.name}.part{get_rank()}')
    try:
        Image.fromarray(image).save(part, 'PNG')
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
