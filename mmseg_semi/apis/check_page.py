"""``check.html``: what ``mmseg-semi check`` has found, as one file that opens from disk."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import cv2
import jinja2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations

from mmseg_semi.apis.first_steps import FirstSteps
from mmseg_semi.datasets.dataset_tree import crop_size, leaf_datasets, pipeline_transforms
from mmseg_semi.datasets.findings import KINDS, Findings
from mmseg_semi.datasets.part_checks import Part
from mmseg_semi.datasets.part_statistics import share, unknown_share
from mmseg_semi.utils.drawing import Tile, as_rgb, colors, fit, overlay, png_of

_SIDE, _SHOWN, _FILES = 320, 4, 5  # pixels of a picture, images of a part, files of a finding
_BARS = 300  # pixels of the longest bar


def color_table(parts: Sequence[Part]) -> np.ndarray:
    """Colors of the labels of the first part with classes, uint8 (256, 3)."""
    for part in parts:
        if part.classes:
            return colors(part.dataset.metainfo)
    return colors(dict(classes=['']))


def page(title: str, found: Findings, parts: Sequence[Part], steps: FirstSteps | None) -> str:
    """Write the page.

    Args:
        title: Name of the config.
        found: All findings.
        parts: All parts, after they were looked at.
        steps: Of the training, None where none were made.
    """
    text = files('mmseg_semi.apis').joinpath('check.html.j2').read_text(encoding='utf-8')
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters['picture'] = picture
    table = color_table(parts)
    masked = [part for part in parts if part.classes]
    rendered = environment.from_string(text).render(
        title=title,
        findings=[
            dict(number=number, severity=severity, kind=KINDS[one.kind], one=one)
            for severity, number, one in found.numbered()
        ],
        most=_FILES,
        parts=[_part(part) for part in parts],
        classes=list(_classes(masked, table)),
        roles=[part.role for part in masked],
        unknown=[100 * unknown_share(part) for part in masked],
        pictures=[(part.role, list(_images(part, table))) for part in parts],
        steps=steps,
    )
    return rendered.encode('utf-8', 'backslashreplace').decode('utf-8')  # file names may be no text


def picture(image: np.ndarray) -> str:
    """An image uint8 RGB (H, W, 3) as the address of a PNG or JPEG, the smaller, that holds it."""
    shown = fit(image, _SIDE)
    data = cv2.imencode('.jpg', shown[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    kind, data = min(('jpeg', data), ('png', png_of(shown)), key=lambda one: len(one[1]))
    return f'data:image/{kind};base64,{base64.b64encode(data).decode("ascii")}'


def _part(part: Part) -> dict[str, Any]:
    sizes = part.sizes.most_common()
    crop = crop_size(part.dataset)
    return dict(
        role=part.role,
        key=part.key,
        images=len(part.dataset),
        masks=part.masks.masks,
        sizes=[f'{width} x {height}: {count}' for (width, height), count in sizes[:3]],
        more=max(0, len(sizes) - 3),
        crop=f'{crop[1]} x {crop[0]}' if crop else '',
    )


def _classes(masked: Sequence[Part], table: np.ndarray) -> Iterator[dict[str, Any]]:
    """Name, color and shares of each class; the lengths of the bars are in pixels."""
    for number, name in enumerate(masked[0].classes if masked else ()):
        shares = [share(part, number) if number < len(part.classes) else 0 for part in masked]
        yield dict(
            name=str(name),
            color='#{:02x}{:02x}{:02x}'.format(*table[number].tolist()),
            bars=[(round(_BARS * one, 1), f'{100 * one:.3f} %') for one in shares],
            masks=[len(part.masks.masks_with[number]) for part in masked],
            objects=masked[0].object_sizes.get(number),
        )


def _images(part: Part, table: np.ndarray) -> Iterator[tuple[str, list[Tile]]]:
    """Some images of a part, evenly chosen, and their masks; those that cannot be read are not."""
    shown = 0
    for leaf in leaf_datasets(part.dataset):
        if not hasattr(leaf, 'get_data_info'):
            continue
        for i in range(0, len(leaf), max(1, len(leaf) // _SHOWN)):
            try:
                tiles = _tiles(leaf, leaf.get_data_info(i), table)
            except Exception:  # what is wrong with it is among the findings
                continue
            yield leaf.get_data_info(i)['img_path'], tiles
            shown += 1
            if shown == _SHOWN:
                return


def _tiles(leaf: Any, info: dict[str, Any], table: np.ndarray) -> list[Tile]:
    results = dict(info, seg_fields=[])
    for transform in pipeline_transforms(leaf):
        loads_mask = isinstance(transform, LoadAnnotations) and info.get('seg_map_path')
        if isinstance(transform, LoadImageFromFile) or loads_mask:
            results = transform.transform(results)
    image = as_rgb(results['img'])
    tiles = [Tile('image', image)]
    if 'gt_seg_map' in results:
        mask = results['gt_seg_map'].astype(np.uint8)
        tiles += [Tile('mask', table[mask]), Tile('both', overlay(image, mask, table))]
    return tiles
