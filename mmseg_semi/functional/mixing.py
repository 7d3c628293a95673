"""Region mixing of unlabeled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from .grids import grid_stride
from .losses import at_least_float32

# Values of resized features that exist at once: 4 MiB (fits a cache) and 64 MiB in float32.
_MAX_ELEMENTS = {'cpu': 2**20, 'cuda': 2**24}
BOX_DRAWS = ('fitting', 'rejection', 'width')
COINS = ('image', 'batch')
PARTNERS = ('random', 'next', 'reversed')
PLACINGS = ('inside', 'clipped')


def _check_range(name: str, value: Sequence[float], low: float, high: float) -> None:
    if len(value) != 2 or not low < value[0] <= value[1] <= high:
        raise ValueError(
            f'{name} must be (smallest, largest) with {low} < smallest <= largest <= {high}, '
            f'got {value}'
        )


def cutmix_boxes(
    batch: int,
    size: Sequence[int],
    prob: float = 0.5,
    area: Sequence[float] = (0.02, 0.4),
    aspect: Sequence[float] = (0.3, 1 / 0.3),
    generator: Optional[torch.Generator] = None,
    device: Optional[torch.device] = None,
    draw: str = 'fitting',
    coin: str = 'image',
) -> Tensor:
    """Draw at most one rectangle an image, True inside.

    CutMix for semi-supervised segmentation (French et al., BMVC 2020) with the constants of
    UniMatch (Yang et al., CVPR 2023). The area is uniform in ``area``, the position uniform over
    all places where the box lies inside the image, unless ``draw`` says otherwise.

    Args:
        batch: Number of images B.
        size: Height and width ``(H, W)`` in pixels.
        prob: Probability that an image gets a box at all; the others are False everywhere.
        area: Smallest and largest area of the box as a fraction of the image.
        aspect: Smallest and largest height / width of the box.
        draw: How the shape is found. ``'fitting'``: the aspect is uniform over the part of
            ``aspect`` for which a box of that area fits into the image. ``'rejection'``: aspect
            and corner are uniform in ``aspect`` and over all pixels, and drawn anew until the box
            lies inside, as UniMatch's program does; square boxes away from the far corner are
            more frequent. ``'width'``: the width is uniform over all from the area's share of the
            image's width, rounded down, plus 1, to the image's width less 1, as U2PL's program
            does; ``aspect`` is not used.
        coin: ``'image'`` decides for each image, ``'batch'`` once for all.
        generator: Source of randomness, on its own device. Defaults to torch's global one.
        device: Where the mask is made. Defaults to the generator's device, or the CPU.

    Returns:
        Bool mask (B, H, W).

    Raises:
        ValueError: A probability, area or aspect outside its range, or an empty image.
    """
    height, width = size
    if batch < 1 or height < 1 or width < 1:
        raise ValueError(f'batch and size must be positive, got batch={batch}, size={tuple(size)}')
    if not 0 <= prob <= 1:
        raise ValueError(f'prob must be in [0, 1], got {prob}')
    _check_range('area', area, 0, 1)
    _check_range('aspect', aspect, 0, float('inf'))

    for name, value, known in (('draw', draw, BOX_DRAWS), ('coin', coin, COINS)):
        if value not in known:
            raise ValueError(f'{name} must be one of {known}, got {value!r}')
    source = generator.device if generator is not None else torch.device('cpu')
    rand = torch.rand(5, batch, generator=generator, device=source, dtype=torch.float64)
    box_area = (area[0] + rand[0] * (area[1] - area[0])) * (height * width)
    if draw == 'rejection':
        box_h, box_w, top, left = _boxes_by_rejection(box_area, (height, width), aspect, generator)
    else:
        if draw == 'fitting':
            # A box of this area fits only for box_area / W^2 <= aspect <= H^2 / box_area.
            low = (box_area / width**2).clamp(min=aspect[0])
            high = (height**2 / box_area).clamp(max=aspect[1])
            ratio = torch.where(low <= high, low + rand[1] * (high - low), box_area / width**2)
            box_h = (box_area * ratio).sqrt().round().clamp(1, height)
            box_w = (box_area / ratio).sqrt().round().clamp(1, width)
        else:
            least = (box_area / height).floor() + 1
            box_w = (least + (rand[1] * (width - least)).floor()).clamp(1, width)
            box_h = (box_area / box_w).round().clamp(1, height)
        top = (rand[2] * (height - box_h + 1)).floor()
        left = (rand[3] * (width - box_w + 1)).floor()
    # An image without a box gets one of height 0.
    has_box = (rand[4] if coin == 'image' else rand[4, :1]) < prob
    box_h = torch.where(has_box, box_h, torch.zeros_like(box_h))

    edges = torch.stack([top, top + box_h, left, left + box_w]).to(device or source)
    top, bottom, left, right = edges[..., None]
    rows = torch.arange(height, device=edges.device)
    columns = torch.arange(width, device=edges.device)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return in_rows[:, :, None] & in_columns[:, None, :]


def _boxes_by_rejection(
    area: Tensor,
    size: tuple[int, int],
    aspect: Sequence[float],
    generator: Optional[torch.Generator],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw aspect and corner of boxes of the areas (B,) until they fit: heights to lefts, (B,)."""
    height, width = size
    largest = float(area.max())
    if max(aspect[0], largest / width**2) > min(aspect[1], height**2 / largest):
        raise ValueError(
            f"draw='rejection': no box of {largest:.0f} pixels with an aspect in "
            f'{tuple(aspect)} fits into an image of {size}: choose a smaller area'
        )
    found = torch.zeros(4, len(area), dtype=torch.float64, device=area.device)
    open_ = torch.ones(len(area), dtype=torch.bool, device=area.device)
    while bool(open_.any()):
        rand = torch.rand(
            3, len(area), generator=generator, device=area.device, dtype=torch.float64
        )
        ratio = aspect[0] + rand[0] * (aspect[1] - aspect[0])
        box_h, box_w = (area * ratio).sqrt().floor(), (area / ratio).sqrt().floor()
        top, left = (rand[1] * height).floor(), (rand[2] * width).floor()
        fits = (top + box_h <= height) & (left + box_w <= width)
        found = torch.where(open_ & fits, torch.stack([box_h, box_w, top, left]), found)
        open_ &= ~fits
    return found[0], found[1], found[2], found[3]


def ratio_boxes(
    ratio: Tensor,
    size: Sequence[int],
    generator: Optional[torch.Generator] = None,
    placing: str = 'inside',
) -> Tensor:
    """Draw a rectangle of given relative sides in each image, True inside.

    CutMix's boxes (Yun et al., ICCV 2019): height and width are the same share of the image's.

    Args:
        ratio: (B,), side of the box over that of the image, 0 to 1; 0 gives no box.
        size: Height and width ``(H, W)`` in pixels.
        generator: Source of randomness, on its own device. Defaults to torch's global one.
        placing: ``'inside'``: uniform over all places where the box lies inside the image;
            ``'clipped'``: the center is uniform over the last seven eighths of rows and columns,
            and what lies outside is cut off, as AugSeg's program does (sides are even then).

    Returns:
        Bool mask (B, H, W) on the device of ``ratio``.

    Raises:
        ValueError: ``placing`` is unknown.
    """
    if placing not in PLACINGS:
        raise ValueError(f'placing must be one of {PLACINGS}, got {placing!r}')
    source = generator.device if generator is not None else torch.device('cpu')
    draw = torch.rand(2, len(ratio), generator=generator, device=source).to(ratio.device)
    inside = []
    for length, place in zip(size, draw):
        if placing == 'inside':
            side = (ratio * length).round()
            first = (place * (length - side + 1)).floor()
            last = first + side
        else:
            half, low = (ratio * length).floor() // 2, length // 8
            center = low + (place * (length - low)).floor()
            first, last = center - half, center + half
        points = torch.arange(length, device=ratio.device)
        inside.append((points >= first[:, None]) & (points < last[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]


def mix_partners(batch: int, generator: Optional[torch.Generator] = None) -> Tensor:
    """Choose for each image another one of the batch to be mixed with.

    Args:
        batch: Number of images B.
        generator: Source of randomness, on its own device. Defaults to torch's global one.

    Returns:
        int64 permutation (B,) without fixed points (one random cycle through the batch). For
        B = 1 there is no other image: the result is ``[0]`` and mixing changes nothing.

    Raises:
        ValueError: ``batch`` is not positive.
    """
    if batch < 1:
        raise ValueError(f'batch must be positive, got {batch}')
    device = generator.device if generator is not None else None
    order = torch.randperm(batch, generator=generator, device=device)
    partners = torch.empty_like(order)
    partners[order] = order.roll(1)
    return partners


def mix(tensor: Tensor, mask: Tensor, partners: Tensor, others: Optional[Tensor] = None) -> Tensor:
    """Take the pixels inside ``mask`` from the partner image.

    Args:
        tensor: Any per-pixel tensor (B, H, W) or (B, C, H, W).
        mask: Bool (B, H, W), True where the partner's pixel is taken.
        partners: int64 (B,), index of the partner of each image.
        others: What the partners' pixels are taken from, like ``tensor``, which is the default.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ValueError: The tensor's batch or spatial size is not the mask's.
    """
    if tensor.shape[0] != mask.shape[0] or tensor.shape[-2:] != mask.shape[-2:]:
        raise ValueError(
            f'tensor {tuple(tensor.shape)} and mask {tuple(mask.shape)} must have the same batch '
            'and spatial size'
        )
    if tensor.dim() == 4:
        mask = mask[:, None]
    return torch.where(mask, (tensor if others is None else others)[partners], tensor)


@torch.no_grad()
def mix_features(
    features: Tensor,
    mask: Tensor,
    partners: Tensor,
    align_corners: bool = False,
    others: Optional[Tensor] = None,
) -> Tensor:
    """Mix feature maps as their images were mixed.

    The features are resized to the image, mixed with its mask and resized back (bilinear), so that
    they describe the mixed image; only pixels that the way back reads are made, some channels at a
    time. Where the grid's positions lie on pixels, that is mixing them with the mask there. Those
    of an image that takes nothing from its partner stay as they are: resizing there and back would
    blur them.

    Args:
        features: (B, C, h, w).
        mask: Bool (B, H, W), as in :func:`mix`.
        partners: int64 (B,).
        align_corners: As in bilinear ``interpolate``; the segmentor's own.
        others: As in :func:`mix`.

    Returns:
        (B, C, h, w) of the same dtype, without gradient.

    Raises:
        ValueError: The batches differ.
    """
    if features.dim() != 4 or features.shape[0] != mask.shape[0]:
        raise ValueError(
            f'features {tuple(features.shape)} must be (B, C, h, w) of the batch of mask '
            f'{tuple(mask.shape)}'
        )
    size, grid = tuple(mask.shape[-2:]), tuple(features.shape[-2:])
    if size == grid:
        return mix(features, mask, partners, others)
    on_pixels = [grid_stride(*sides) for sides in zip(size, grid)]
    if align_corners and all(on_pixels):
        down, across = on_pixels
        return mix(features, mask[:, ::down, ::across], partners, others)
    once = _MAX_ELEMENTS.get(mask.device.type, 2**24)
    channels = max(1, once // (4 * mask.shape[0] * grid[0] * grid[1]))
    taken = features.split(channels, dim=1)
    given = taken if others is None else others.split(channels, dim=1)
    with torch.autocast(mask.device.type, enabled=False):
        resampling = _Resampling(size, grid, align_corners, at_least_float32(features[:0]))
        parts = [resampling.mixed(one, mask, partners, other) for one, other in zip(taken, given)]
    mixed = mask.flatten(1).any(dim=1)[:, None, None, None]
    return torch.where(mixed, torch.cat(parts, dim=1), features)


class _Resampling:
    """Resizing from a grid to an image and back, of the pixels alone that the way back reads.

    These are four around each position of the grid.

    Args:
        size: Height and width of the image.
        grid: Those of the grid.
        align_corners: As in bilinear ``interpolate``.
        like: A tensor of the type and device to compute with.
    """

    def __init__(
        self, size: tuple[int, ...], grid: tuple[int, ...], align_corners: bool, like: Tensor
    ) -> None:
        #: By side: the pixels, and weights between the lower and the upper one of each position.
        self.pixels: list[Tensor] = []
        self.back: list[Tensor] = []
        #: By side: the matrix that makes these pixels of the grid's positions.
        self.lift: list[Tensor] = []
        for pixels, cells in zip(size, grid):
            low, high, weight = _neighbors(pixels, cells, align_corners, like.device)
            self.pixels.append(torch.stack([low, high], dim=1).flatten())
            self.back.append(weight.to(like.dtype))
            low, high, weight = _neighbors(cells, pixels, align_corners, like.device)
            places = torch.eye(cells, dtype=torch.float64, device=like.device)
            matrix = torch.lerp(places[low], places[high], weight[:, None])
            self.lift.append(matrix[self.pixels[-1]].to(like.dtype))

    def lifted(self, features: Tensor) -> Tensor:
        """The pixels (B, C, 2h, 2w) of features (B, C, h, w), resized to the image."""
        rows, columns = self.lift
        return rows @ at_least_float32(features) @ columns.T

    def mixed(self, features: Tensor, mask: Tensor, partners: Tensor, others: Tensor) -> Tensor:
        """See :func:`mix_features`; features and others (B, C, h, w)."""
        full = self.lifted(features)
        given = full if others is features else self.lifted(others)
        there = mask[:, self.pixels[0]][:, :, self.pixels[1]]
        rows = mix(full, there, partners, given).unflatten(2, (-1, 2))
        rows = torch.lerp(rows[:, :, :, 0], rows[:, :, :, 1], self.back[0][:, None])
        columns = rows.unflatten(3, (-1, 2))
        return torch.lerp(columns[..., 0], columns[..., 1], self.back[1]).to(features.dtype)


def _neighbors(
    given: int, wanted: int, align_corners: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The two places in ``given`` around each of ``wanted`` ones, and the weight of the second."""
    places = torch.arange(wanted, dtype=torch.float64, device=device)
    if align_corners:
        places = places * ((given - 1) / (wanted - 1) if wanted > 1 else 0.0)
    else:
        places = ((places + 0.5) * (given / wanted) - 0.5).clamp(min=0)
    low = places.long().clamp(max=given - 1)
    return low, (low + 1).clamp(max=given - 1), places - low
