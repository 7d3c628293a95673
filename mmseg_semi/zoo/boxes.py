"""Boxes of a detector, made once before the trainings that read them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from mmseg_semi.datasets.file_digests import config_digest
from mmseg_semi.datasets.splits import PARTS, read_lines, split_hash
from mmseg_semi.detection.coco import read_coco
from mmseg_semi.files import write_file
from mmseg_semi.zoo.commands import TOOLS, call, ending_commands, shown

MINUTES = 'minutes.txt'


def hash_of_lists(labeled: Path) -> Optional[str]:
    """Hash of a split as its lists have it; None when one of them is not there.

    Args:
        labeled: List of the labeled images; that of the unlabeled ones lies beside it.
    """
    lists = [labeled.with_name(f'{part}.txt') for part in PARTS]
    if not all(path.is_file() for path in lists):
        return None
    return split_hash(*([name for _, name in read_lines(path)] for path in lists))


@dataclass
class Boxes:
    """The boxes that a training config reads, and the detector that finds them.

    Attributes:
        config: Training config with ``unlabeled.detections``; its labeled masks and its lists are
            the detector's.
        detector: The detector's config. Its files are exchanged for those that ``config`` names.
        parent: Folder above the detector's work folder.
        suffix: What the file names of images have after their names in the lists.
        options: ``--cfg-options`` of ``config``, as ``key=value`` with strings as values.
    """

    config: str
    detector: str
    parent: str
    suffix: str
    options: list[str] = field(default_factory=list)

    @cached_property
    def _data(self) -> Any:
        cfg = Config.fromfile(self.config)
        cfg.merge_from_dict(dict(option.split('=', 1) for option in self.options))
        return cfg.train_dataloader.dataset

    @cached_property
    def _detector(self) -> Config:
        return Config.fromfile(self.detector)

    @property
    def path(self) -> Path:
        """The results file."""
        return Path(self._data.unlabeled.detections.results)

    @cached_property
    def _split(self) -> Optional[str]:
        return hash_of_lists(Path(self._data.labeled.data_root, self._data.labeled.ann_file))

    @property
    def work_dir(self) -> Path:
        """Work folder of the detector.

        Another split of the same name, or other images and masks, must not resume from the detector
        of the first.
        """
        stem = Path(self.detector).stem
        return Path(self.parent, f'{stem}-{self._made_from}' if self._split else stem)

    @cached_property
    def _made_from(self) -> str:
        files = config_digest(self._data.to_dict())
        return f'{self._split}-{files}' if self._split else files

    @property
    def _note(self) -> Path:
        return self.path.with_name('made_from.txt')

    def missing(self) -> bool:
        """Whether the boxes are not there, or were learned or found on other images or masks."""
        if not self.path.is_file():
            return True
        if self._note.is_file() and self._note.read_text().strip() != self._made_from:
            return True
        return bool(self._split) and self._split_of_boxes() != self._split

    def _split_of_boxes(self) -> Optional[str]:
        """Hash of the split that the lists of the boxes' images tell."""
        try:
            files = [read_coco(self.path.with_name(f'{part}.json')) for part in PARTS]
        except (FileNotFoundError, ValueError):
            return None
        names = [[image['file_name'] for image in content['images']] for content in files]
        return split_hash(*([name.removesuffix(self.suffix) for name in part] for part in names))

    def commands(self) -> list[list[str]]:
        """The commands that make the boxes, one after the other."""
        last = str(self.work_dir / f'iter_{self._detector.train_cfg.max_iters}.pth')
        folder = str(self.work_dir)
        converter = str(TOOLS / 'dataset_converters' / 'masks_to_coco.py')
        own = self._own_files()
        return [
            [sys.executable, converter, self.config, *_given(self.options)],
            _tool('train', self.detector, '--work-dir', folder, '--resume', *own),
            _tool('test', self.detector, last, '--work-dir', f'{folder}/test', *own),
        ]

    def _own_files(self) -> list[str]:
        """Options of the detector's config where it names the files of another split."""
        cfg, folder = self._detector, self.path.parent
        if Path(cfg.test_evaluator.ann_file).parent == folder:
            return []
        inner = os.path.relpath(folder, cfg.train_dataloader.dataset.data_root)
        return _given(
            [
                f'train_dataloader.dataset.ann_file={inner}/labeled.json',
                f'test_dataloader.dataset.ann_file={inner}/unlabeled.json',
                f'test_evaluator.ann_file={folder}/unlabeled.json',
                f'test_evaluator.outfile_prefix={folder}/unlabeled',
            ]
        )

    def make(self, threads: Optional[int]) -> None:
        """Run the commands; an interrupted training of the detector is resumed.

        Args:
            threads: CPU threads; None leaves it to the environment.

        Raises:
            RuntimeError: One of them failed; names the log file.
        """
        commands, start, before = self.commands(), time.time(), self._minutes() or 0.0
        try:
            with ending_commands():
                for command in commands:
                    print('#', shown(command), flush=True)
                    call(command, str(self.work_dir / 'boxes.log'), threads, command[2])
            if self.path.is_file():
                write_file(self._note, f'{self._made_from}\n')
        finally:  # an interrupted training counts
            minutes = before + (time.time() - start) / 60
            write_file(self.work_dir / MINUTES, f'{minutes:.2f}\n')

    def _minutes(self) -> Optional[float]:
        path = self.work_dir / MINUTES
        return float(path.read_text()) if path.is_file() else None

    def said(self) -> str:
        """A sentence that says where the boxes are and how long they took."""
        minutes = self._minutes()
        took = '' if minutes is None else f', made in {minutes:.1f} minutes'
        return f'Boxes of {Path(self.detector).stem}: {self.path}{took}.'


def distinct(boxes: Iterable[Boxes]) -> list[Boxes]:
    """Each file of boxes once; of several that make it, the last."""
    return list({one.path: one for one in boxes}.values())


def _given(options: list[str]) -> list[str]:
    return ['--cfg-options', *options] if options else []


def _tool(name: str, *args: str) -> list[str]:
    return [sys.executable, str(TOOLS / f'{name}.py'), *args]
