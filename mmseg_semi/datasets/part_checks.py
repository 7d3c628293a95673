"""All files of labeled, unlabeled, validation and test data, looked at before the first step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations

from mmseg_semi.errors import name_some
from mmseg_semi.files import is_local

from .dataset_tree import data_infos, image_paths, leaf_datasets, pipeline_transforms
from .file_records import (
    ImageRecord,
    MaskRecord,
    look_at,
    read_ending,
    read_image,
    read_mask,
)
from .findings import Finding, Findings
from .image_files import SIDEWAYS, TURNED_REMEDY, is_turned
from .image_kinds import check_kinds
from .mask_checks import MaskSum, check_palettes, check_values, coding_of
from .transforms.check_annotations import CheckAnnotations

#: What mmseg-semi import-labels writes beside images and masks.
CLASSES_FILE = 'classes.json'
_STORED_AS_THEY_ARE = ('unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation')


@dataclass
class Part:
    """Data that are looked at.

    Attributes:
        key: Config key of the dataset, for messages.
        dataset: The dataset, wrapped or not.
        role: ``'train'``, ``'unlabeled'``, ``'val'`` or ``'test'``.
        skip: Whether unreadable images are left out, as ``on_error='skip'`` does.
        measure: Whether sizes of unlabeled images are read too, which takes longer.
        images: Images by what their headers say; filled by ``check_parts``.
        classes: Names of the classes of the masks; likewise.
        masks: What the masks hold; likewise.
        object_sizes: Half of the objects of a class are smaller, in pixels after resizing; filled
            by ``check_objects``.
    """

    key: str
    dataset: Any
    role: str
    skip: bool = False
    measure: bool = False
    images: dict[ImageRecord, list[str]] = field(default_factory=dict)
    classes: Sequence[str] = ()
    masks: MaskSum = field(default_factory=MaskSum)
    object_sizes: dict[int, float] = field(default_factory=dict)

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Number of images of each (width, height)."""
        found: Counter[tuple[int, int]] = Counter()
        for one, paths in self.images.items():
            found[one.width, one.height] += len(paths)
        return found


def check_parts(parts: list[Part]) -> Findings:
    """Look at the files of every part: images by header and end, masks whole.

    Files that no file system holds (``backend_args``) are left out, and masks where no
    ``LoadAnnotations`` reads them.

    Args:
        parts: The parts; what they hold is counted in them.

    Returns:
        One sentence for each kind of fault of a part, which names the first files and says how
        many there are.
    """
    out = Findings()
    for part in parts:
        _check_part(part, out)
    return out


def _check_part(part: Part, out: Findings) -> None:
    images: dict[str, ImageRecord] = {}
    masks: dict[str, MaskRecord] = {}
    mask_of: dict[str, str] = {}
    sums, coding, turning = part.masks, None, []
    other: set[str] = set()  # images that are of other kinds than the loader's
    kinds: dict[ImageRecord, ImageRecord] = {}  # equal records take no room
    shared: dict[MaskRecord, MaskRecord] = {}
    for leaf in leaf_datasets(part.dataset):
        if not is_local(getattr(leaf, 'backend_args', None)):
            continue
        paths = list(dict.fromkeys(image_paths(leaf)))
        ending = part.role == 'unlabeled' and not part.measure
        read = read_ending if ending else read_image
        for path, image in zip(paths, look_at(paths, read, ImageRecord, f'images of {part.key}')):
            images[path] = kinds.setdefault(image, image)
        if not ending:
            odd = check_kinds(
                part.key, _find(leaf, LoadImageFromFile), {p: images[p] for p in paths}
            )
            out.errors += odd
            other.update(path for one in odd for path in one.files)
        loader = _find(leaf, LoadAnnotations)
        if part.role == 'unlabeled' or loader is None or not _reads_as_stored(loader):
            continue
        infos = data_infos(leaf)
        pairs = {i['img_path']: i['seg_map_path'] for i in infos if i.get('seg_map_path')}
        paths = list(dict.fromkeys(pairs.values()))
        mask_of.update(pairs)
        if not _ignores_orientation(leaf):
            turning += [path for path in pairs if images[path].orientation > 1]
        checker = _find(leaf, CheckAnnotations)
        coding = coding_of(leaf, getattr(checker, 'ignore_index', None))
        found: dict[str, MaskRecord] = {}
        records = look_at(paths, read_mask, MaskRecord, f'masks of {part.key}')
        for path, record in zip(paths, records):
            plain = record.reason is None and record.channels == record.pages == 1
            if coding and plain and not record.lossy:
                sums.add(path, record, coding)
            palette = tuple(map(tuple, record.palette))
            slim = record._replace(values=(), palette=palette)
            found[path] = shared.setdefault(slim, slim)
        masks.update(found)
        out.errors += check_palettes(part.key, found)
    for path, one in images.items():
        if not one.reason and one.width and path not in other:
            part.images.setdefault(one, []).append(path)
    part.classes = coding.classes if coding else ()
    _check_images(part, images, out)
    _check_masks(part.key, masks, out)
    turned = [path for path in turning if images[path].reason is None and is_turned(path)]
    _check_sizes(part.key, images, masks, mask_of, {*turned}, out)
    if coding:
        values = check_values(part.key, sums, coding, part.role)
        out.errors += values.errors
        out.warnings += values.warnings


def check_class_names(parts: Sequence[Part]) -> Findings:
    """Compare the classes of the config with those that masks were made with.

    ``mmseg-semi import-labels`` writes the latter into ``classes.json`` in the ``data_root``.

    Args:
        parts: All parts, after ``check_parts``.

    Returns:
        An error where the values of masks do not fit either or the same names stand in another
        order, else a warning; one for each file.
    """
    out = Findings()
    for part in parts:
        for leaf in leaf_datasets(part.dataset):
            file = Path(getattr(leaf, 'data_root', None) or '', CLASSES_FILE)
            ours = [str(one) for one in getattr(leaf, 'metainfo', {}).get('classes') or ()]
            names = _names_in(file)
            if part.role == 'unlabeled' or not ours or names in (None, ours):
                continue
            text = f'the classes of the config are {ours}, those of {file} are {names}.'
            remedy = (
                'The numbers in the masks mean those of the file, unless they were changed since: '
                "leave classes of the config out or set classes='classes.json', with "
                'metainfo.classes and num_classes in other configs; or correct the file.'
            )
            exchanged = names is not None and sorted(names) == sorted(ours)
            found = out.errors if part.masks.wrong or exchanged else out.warnings
            found.append(Finding(52, text, remedy, [str(file)]))
    return Findings(out.errors, [one for one in out.warnings if one not in out.errors])


def _names_in(file: Path) -> list[str] | None:
    """The classes of a file, None where there is none or it has no such list."""
    try:
        names = json.loads(file.read_text(encoding='utf-8'))['classes']
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [str(one) for one in names] if isinstance(names, list) else None


def _find(leaf: Any, kind: type[Any]) -> Any:
    return next((one for one in pipeline_transforms(leaf) if isinstance(one, kind)), None)


def _reads_as_stored(loader: LoadAnnotations) -> bool:
    """Whether a loader is mmseg's own, which takes a mask's values as PIL gives them."""
    return type(loader) is LoadAnnotations and loader.imdecode_backend == 'pillow'


def _ignores_orientation(leaf: Any) -> bool:
    loader = _find(leaf, LoadImageFromFile)
    return loader is not None and (
        loader.color_type in _STORED_AS_THEY_ARE
        or loader.imdecode_backend in ('turbojpeg', 'tifffile')
    )


def _check_images(part: Part, images: dict[str, ImageRecord], out: Findings) -> None:
    broken = {path: f'{path} ({one.reason})' for path, one in images.items() if one.reason}
    if not broken:
        return
    text = (
        f'{part.key}: {len(broken)} of {len(images)} images can not be read: '
        f'{name_some([*broken.values()])}.'
    )
    if part.skip and len(broken) < len(images):
        remedy = "on_error='skip' takes the next image in place of each."
        out.warnings.append(Finding(10, text, remedy, broken))
        return
    ways = ['Replace each by a whole file of the same name']
    if part.role == 'unlabeled':
        ways.append(
            "or set train_dataloader.dataset.on_error='skip' to go on without them. A run that is "
            'to be resumed can do either; with files removed its split would be another one'
        )
    elif part.role == 'train':
        ways.append('or take it out of the labeled part before a run is started')
    else:
        ways.append('or remove it, and its mask if it has one')
    out.errors.append(Finding(10, text, f'{", ".join(ways)}.', broken))


def _check_masks(key: str, masks: dict[str, MaskRecord], out: Findings) -> None:
    """Look at what kind of files the masks are."""
    kinds = (
        (
            11,
            'can not be read',
            {path: one.reason for path, one in masks.items() if one.reason},
            'Replace each by a whole single-channel PNG of class numbers.',
        ),
        (
            12,
            'are in a format that changes class numbers when it is written',
            {path: one.lossy for path, one in masks.items() if one.lossy},
            'Save the masks as PNG, from what they were made of: what has been lost does not come '
            'back.',
        ),
        (
            13,
            'have several channels',
            {
                path: f'{one.channels} channels'
                for path, one in masks.items()
                if one.channels > 1 and not one.lossy
            },
            'Replace each color by its class number and save a single-channel PNG (gray or '
            'palette), without alpha.',
        ),
        (
            14,
            'are files of several images, of which only the first would be read',
            {path: f'{one.pages} images' for path, one in masks.items() if one.pages > 1},
            'Save one image a file.',
        ),
    )
    for kind, what, found, remedy in kinds:
        if found:
            names = name_some([f'{path} ({reason})' for path, reason in found.items()])
            text = f'{key}: {len(found)} of {len(masks)} masks {what}: {names}.'
            out.errors.append(Finding(kind, text, remedy, found))


def _check_sizes(
    key: str,
    images: dict[str, ImageRecord],
    masks: dict[str, MaskRecord],
    mask_of: dict[str, str],
    turned: set[str],
    out: Findings,
) -> None:
    """Compare sizes, and name images that are turned when loaded while their masks are not."""
    wrong: dict[str, str] = {}
    sideways: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    for path, mask_path in mask_of.items():
        image, mask = images[path], masks[mask_path]
        if image.reason or mask.reason or not image.width:
            continue
        exchanged = path in turned and image.orientation >= SIDEWAYS
        size = (image.width, image.height)
        if image.orientation >= SIDEWAYS and not exchanged:
            size = size[::-1]
        if size != (mask.width, mask.height):
            text = f'{mask_path} is {mask.width} x {mask.height}, {path} {size[0]} x {size[1]}'
            fits_stored = size[::-1] == (mask.width, mask.height)
            (sideways if exchanged and fits_stored else wrong)[mask_path] = text
        elif path in turned and not (exchanged and size[0] != size[1]):
            doubtful[path] = f'{path} (orientation {image.orientation})'
    if wrong:
        text = (
            f'{key}: {len(wrong)} of {len(mask_of)} masks have another size than their image (width'
            f' x height): {name_some([*wrong.values()])}.'
        )
        remedy = 'Check that the files belong together, or resize the masks with nearest neighbor.'
        out.errors.append(Finding(15, text, remedy, wrong))
    if sideways:
        text = (
            f'{key}: {len(sideways)} of {len(mask_of)} masks do not fit their image, because an '
            'EXIF orientation turns the image when it is loaded, and not the mask (width x height):'
            f' {name_some([*sideways.values()])}.'
        )
        out.errors.append(Finding(16, text, TURNED_REMEDY, sideways))
    if doubtful:
        text = (
            f'{key}: {len(doubtful)} images have an EXIF orientation and are turned or mirrored '
            f'when they are loaded, and their masks are not: {name_some([*doubtful.values()])}. '
            'Masks that were drawn on the pixels as they are stored do not fit.'
        )
        out.warnings.append(Finding(16, text, TURNED_REMEDY, doubtful))
