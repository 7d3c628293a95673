"""Predicting the images of a folder of predictions, and writing their files."""

from __future__ import annotations

import importlib.util
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmseg_semi.apis.predicting import Band, Predictor, Sample
from mmseg_semi.apis.prediction_files import (
    Predictions,
    has_georeference,
    write_geotiff,
    write_labels,
)
from mmseg_semi.apis.ranking import Tally
from mmseg_semi.apis.saved_model import SavedModel
from mmseg_semi.datasets.image_files import unreadable_reason
from mmseg_semi.errors import DataError, UnreadableImage, reading
from mmseg_semi.utils.drawing import as_rgb, colors, overlay, palette

KINDS = dict(labels='.png', overlays='.png', probabilities='.npy')


@dataclass
class Job:
    """What is predicted, and what is written of it.

    Attributes:
        saved: Model and config.
        predictor: Predicts with it.
        predictions: The folder.
        names: Of the files of each image, without folder and suffix.
        kinds: Keys of ``KINDS`` that are wanted.
        scored: Whether images are ranked.
        failed: Why images could not be predicted.
    """

    saved: SavedModel
    predictor: Predictor
    predictions: Predictions
    names: Mapping[str, str]
    kinds: Sequence[str]
    scored: bool = False
    failed: dict[str, str] = field(default_factory=dict)

    def files_of(self, image: str) -> list[str]:
        """Files of an image, by kind; that of the labels first."""
        suffixes = dict(KINDS, labels='.tif') if _keeps_place(image) else KINDS
        return [f'{kind}/{self.names[image]}{suffixes[kind]}' for kind in self.kinds]

    @staticmethod
    def image_name(image: str, labels: str) -> str:
        """Name of an image below the folder that holds all of them, by its label map's."""
        name, suffix = str(Path(labels).with_suffix('').relative_to('labels')), Path(image).suffix
        return name if name.endswith(suffix) else name + suffix


def _keeps_place(image: str) -> bool:
    return importlib.util.find_spec('rasterio') is not None and has_georeference(image)


# ------------------------------------------------------------------------------------ predicting
def loaded(images: Iterable[str], saved: SavedModel, ahead: int) -> Iterator[tuple[str, Any]]:
    """Images with what the pipeline makes of them, or why it cannot; some are loaded ahead."""

    def load(image: str) -> Any:
        try:
            reason = unreadable_reason(image)
            if reason is not None:
                raise UnreadableImage(f'{image} cannot be read: {reason}')
            with reading(image):
                return saved.pipeline(dict(img_path=image, seg_fields=[]))
        except DataError as error:
            return str(error)

    waiting: deque[tuple[str, Future[Any]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for image in images:
            waiting.append((image, pool.submit(load, image)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def predict_all(job: Job, images: Sequence[str], batch: int) -> Iterator[str]:
    """Predict images, and give each one that is done."""
    waiting: list[tuple[str, Sample]] = []
    for image, sample in loaded(images, job.saved, batch):
        if isinstance(sample, str):
            job.failed[image] = sample
            yield image
            continue
        tile = job.predictor.tile_of(sample)
        if tile:
            yield from _written(job, [(image, sample)], tile)
            continue
        if waiting and (len(waiting) == batch or _kind(sample) != _kind(waiting[0][1])):
            yield from _written(job, waiting)
            waiting = []
        waiting.append((image, sample))
    if waiting:
        yield from _written(job, waiting)


def _kind(sample: Sample) -> Any:
    return sample['inputs'].shape, sample['inputs'].dtype


def _written(job: Job, several: Sequence[tuple[str, Sample]], tile: int = 0) -> Iterator[str]:
    """Predict and write; what the data are to blame for fails these images alone."""
    images, samples = zip(*several)
    done = 0
    try:
        if tile:
            predicted = [job.predictor.tiled(samples[0], tile)]
        else:
            predicted = [iter([one]) for one in job.predictor.whole(samples)]
        for image, sample, bands in zip(images, samples, predicted):
            write_image(job, image, tuple(sample['data_samples'].ori_shape[:2]), bands)
            done += 1
            yield image
    except DataError as error:
        for image in images[done:]:
            text = str(error)
            job.failed[image] = text if image in text else f'{image}: {text}'
            yield image


# --------------------------------------------------------------------------------------- writing
def write_image(job: Job, image: str, size: tuple[int, int], bands: Iterable[Band]) -> None:
    """Write the files of an image of (H, W) while its rows are predicted."""
    names = job.files_of(image)
    with job.predictions.writing(image, names) as (parts, entry):
        paths, tally = dict(zip(job.kinds, parts)), Tally() if job.scored else None
        labels = _taken(bands, size, paths.get('probabilities'), tally)
        entry.scores = tally.scores() if tally else {}
        if 'overlays' in paths:
            table = colors(job.saved.meta)
            picture = overlay(picture_of(job.saved, image), labels % 256, table)
            Image.fromarray(picture).save(paths['overlays'], 'PNG')
        numbers = job.saved.numbers(labels)
        table = np.roll(palette(job.saved.meta), int(job.saved.reduced), axis=0)
        if names[0].endswith('.tif'):
            write_geotiff(paths['labels'], numbers, table, image)
        else:
            write_labels(paths['labels'], numbers, table)


def _taken(
    bands: Iterable[Band],
    size: tuple[int, int],
    probabilities: Path | None,
    tally: Tally | None,
) -> np.ndarray:
    """Labels int16 (H, W) of all bands, whose probabilities go to a file as they come."""
    labels, row = np.empty(size, np.int16), 0
    store: Any = None
    for band in bands:
        rows = slice(row, row + len(band.labels))
        labels[rows] = band.labels.cpu().numpy()
        if tally is not None:
            tally.add(band)
        if probabilities is not None:
            found = band.probabilities().cpu().numpy()
            if store is None:
                shape = (len(found), *size)
                store = np.lib.format.open_memmap(probabilities, 'w+', np.float16, shape)
                _claim_space(probabilities)
            store[:, rows] = found
        row = rows.stop
    if store is not None:
        store.flush()
    return labels


def _claim_space(path: Path) -> None:
    """Have the disk give a file its whole size, since writing into its map would end the process.

    Raises:
        OSError: The disk is full.
    """
    if hasattr(os, 'posix_fallocate'):
        with open(path, 'r+b') as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def picture_of(saved: SavedModel, image: str) -> np.ndarray:
    """RGB of an image as the pipeline loads it, uint8 (H, W, 3)."""
    loader = saved.pipeline.transforms[0]
    if not isinstance(loader, LoadImageFromFile):
        return mmcv.imread(image, channel_order='rgb')
    return as_rgb(loader.transform(dict(img_path=image))['img'])
