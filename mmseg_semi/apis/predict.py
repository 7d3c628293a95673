"""Predict images with a checkpoint: ``mmseg-semi predict``."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseg_semi.apis.image_inputs import find_images, with_slices
from mmseg_semi.apis.pre_annotations import write_annotations
from mmseg_semi.apis.predicting import Predictor
from mmseg_semi.apis.prediction_files import Predictions, has_georeference
from mmseg_semi.apis.prediction_job import KINDS, Job, predict_all
from mmseg_semi.apis.ranking import ranked, write_ranking
from mmseg_semi.apis.saved_model import SavedModel, load_saved
from mmseg_semi.apis.start import ignore_library_warnings
from mmseg_semi.arguments import check_whole
from mmseg_semi.datasets.file_digests import whole_digest
from mmseg_semi.errors import DataError, name_some
from mmseg_semi.functional.tiles import ALIGN
from mmseg_semi.prepare.own_files import OwnFiles
from mmseg_semi.utils.config import parse_tool
from mmseg_semi.utils.drawing import drawn_legend, png_of
from mmseg_semi.utils.progress import duration, track
from mmseg_semi.utils.work_dirs import claimed
from mmseg_semi_cli import runs as command_lines


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    args = parse_tool(command_lines.predict(), argv)
    check_whole('--batch', args.batch, 1)
    check_tiles(args.tile, args.overlap)
    return args


def check_tiles(tile: int, overlap: int | None) -> None:
    """Refuse tiles that do not fit the grid of the networks, or do not go on."""
    if tile % ALIGN or tile not in (0, max(tile, 2 * ALIGN)):
        raise ValueError(
            f'--tile {tile} must be a multiple of {ALIGN} from {2 * ALIGN} on, such as 512'
        )
    if overlap is not None and not 0 <= overlap <= (tile or 1024) // 2:
        raise ValueError(
            f'--overlap {overlap} must be from 0 to {(tile or 1024) // 2}, half of the tile'
        )


def write_more(job: Job, maps: Mapping[str, str], args: argparse.Namespace) -> None:
    """Write what is made of all predictions in the folder, given the label map of each image."""
    folder, saved = job.predictions.folder, job.saved
    if args.polygons:
        paths = {job.image_name(image, path): folder / path for image, path in maps.items()}
        write_annotations(folder, args.polygons, paths, saved.meta, saved.reduced)
    scores = {image: job.predictions.entries[path].scores for image, path in maps.items()}
    scored = {image: found for image, found in scores.items() if found}
    if args.rank_by and scored:
        write_ranking(OwnFiles(folder, 'ranking-files.json'), ranked(scored))


def settings_of(args: argparse.Namespace, saved: SavedModel) -> dict[str, Any]:
    """All that predictions depend on."""
    parts = repr((saved.cfg.model.to_dict(), saved.cfg.test_dataloader.to_dict()))
    return dict(
        checkpoint=whole_digest(args.checkpoint).hex()[:12],
        config=hashlib.blake2b(parts.encode()).hexdigest()[:12],
        tile=args.tile,
        overlap=args.overlap,
        amp=args.amp,
    )


def say(job: Job, predicted: int, before: int, seconds: float) -> None:
    """Print what was done.

    Raises:
        DataError: Some images could not be predicted.
    """
    lost = job.failed.keys() & job.names.keys()  # not those of broken volumes
    rate = f' in {duration(seconds)}, {predicted / seconds:.2g} a second' if predicted else ''
    count = predicted - len(lost)
    print(
        f'{job.predictions.folder}: {count} images predicted{rate}; {before} were finished before'
    )
    if job.failed:
        print('\n'.join(f'  {text}' for text in list(job.failed.values())[:20]))
        raise DataError(
            f'{len(job.failed)} of {len(job.failed) + count + before} images could not be '
            f'predicted, the others are complete: {name_some(list(job.failed))}. Put them right '
            'and run the same again.'
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Predict."""
    args = parse_args(argv)
    ignore_library_warnings()
    names = find_images(args.images, args.out)
    saved = load_saved(
        args.checkpoint, args.config, args.cfg_options, args.predict_with, args.device
    )
    scored = args.rank_by is not None
    predictor = Predictor(saved, args.tile, args.overlap, args.amp, compare=scored)
    wanted = dict(labels=True, overlays=args.overlay, probabilities=args.probabilities)
    kinds = [kind for kind in KINDS if wanted[kind]]
    with claimed(args.out, option='--out'):
        names, failed = with_slices(names, Path(args.out))
        predictions = Predictions(Path(args.out), settings_of(args, saved))
        job = Job(saved, predictor, predictions, names, kinds, scored, failed)
        files = {image: job.files_of(image) for image in names}
        predictions.claim(files)
        predictions.write_once('classes.json', json.dumps(saved.meta, indent=1) + '\n')
        if args.overlay:
            predictions.write_once('legend.png', png_of(drawn_legend(saved.meta)))
        todo = [image for image in names if not predictions.finished(image, files[image], scored)]
        start = time.monotonic()
        for _ in track(predict_all(job, todo, args.batch), total=len(todo)):
            pass
        seconds = max(time.monotonic() - start, 1e-6)
        maps = {one: files[one][0] for one in names if one not in job.failed}
        earlier = predictions.others(names)
        write_more(job, {**earlier, **maps}, args)
    if any(map(has_georeference, todo)) and importlib.util.find_spec('rasterio') is None:
        print("GeoTIFF images: pip install 'mmseg_semi[geotiff]' keeps their place on the Earth")
    if earlier and (args.polygons or args.rank_by):
        print(f'{len(earlier)} images of earlier runs are among the polygons or in the ranking too')
    say(job, len(todo), len(names) - len(todo), seconds)
