"""Label maps and pictures of predictions, one file an image, named as the image is."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmseg.registry import HOOKS
from PIL import Image

from mmseg_semi.datasets.dataset_tree import image_paths, leaf_datasets

PREDICTIONS = {'pred_sem_seg': '', 'teacher_pred_sem_seg': 'teacher'}


@HOOKS.register_module()
class PredictionWriterHook(Hook):
    """Write what a test predicts; ``tools/test.py --out`` and ``--show-dir``.

    ``images/a/b.jpg`` becomes ``a/b.png``, where ``images`` is the image folder of the data set;
    images of one folder that differ in the suffix only keep it (``b.jpg.png``). With
    ``predict_with='both'`` the teacher's are in the folder ``teacher``. A label map has the class
    numbers in 8 bits (16 from 256 classes on), with the numbers of the masks: one more where
    ``reduce_zero_label`` is set.

    Args:
        out_dir: Folder of the label maps, None for none.
        show_dir: Folder of the pictures, which show prediction and, where there is one, truth. Of
            several ranks only the first draws, since mmengine's visualizer works there alone.
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
        if self.show_dir is not None and get_world_size() > 1:
            print_log(
                f'--show-dir: only the first of {get_world_size()} ranks draws its images; test in '
                'one process to draw all',
                logger='current',
                level=logging.WARNING,
            )
        self._reduced = bool(getattr(dataset, 'metainfo', {}).get('reduce_zero_label'))
        inside = [name for name in self.names.values() if name.startswith('teacher/')]
        if inside and (getattr(runner.model, 'test_cfg', None) or {}).get('predict_with') == 'both':
            raise ValueError(
                "--predict-with both writes the teacher's predictions into the folder 'teacher', "
                f'where those of {len(inside)} images would be, the first {inside[0]}: predict '
                'with one network at a time.'
            )
        self._refuse_data()

    def _refuse_data(self) -> None:
        images = {os.path.realpath(path) for path in self.names}
        of_data = tuple(f'{folder}{os.sep}' for folder in self.data_folders)
        folders = [self.show_dir] if self.show_dir is not None else []
        if self.out_dir is not None:
            folders += [os.path.join(self.out_dir, part) for part in PREDICTIONS.values()]
        for folder, name in itertools.product(folders, self.names.values()):
            path = os.path.join(folder, name)
            there = os.path.realpath(path)
            if there in images or (there.startswith(of_data) and os.path.lexists(there)):
                what = 'an image that is predicted' if there in images else 'an image or mask'
                raise ValueError(
                    f'{path} would be written in the place of {what} of the data: name another '
                    'folder with --out or --show-dir.'
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
            if self.show_dir is not None and is_main_process():
                self._draw(runner, sample, inside_folder(self.show_dir, name))

    def _draw(self, runner: Any, sample: Any, path: Path) -> None:
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        part = path.with_name(f'{path.stem}.part{get_rank()}.png')
        try:
            runner.visualizer.add_datasample('', image, data_sample=sample, out_file=str(part))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def data_folders(node: Any) -> Iterator[str]:
    """Folders of images and masks that a config names."""
    if isinstance(node, Mapping):
        for inner in (node.get('data_prefix') or {}).values():
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
    """
    folders = [os.path.abspath(root) for root in roots if root]
    root = os.path.commonpath(folders) if folders else os.path.abspath('')
    plain = {}
    for path in dict.fromkeys(paths):
        whole = os.path.abspath(path)
        inside = os.path.commonpath([root, whole]) == root
        plain[path] = os.path.relpath(whole, root) if inside else whole.lstrip(os.sep)
    stems = Counter(os.path.splitext(name)[0] for name in plain.values())
    names = {}
    for path, name in plain.items():
        stem = os.path.splitext(name)[0]
        names[path] = (name if stems[stem] > 1 else stem).replace(os.sep, '/') + '.png'
    return names


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
    part = path.with_name(f'{path.name}.part{get_rank()}')
    try:
        kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
        Image.fromarray(labels.astype(kind)).save(part, 'PNG')
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
