"""A user's own images, made up: leaves (1) with spots of disease (2) on soil (0), and a config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tool_runs import CONFIGS

CLASSES = ('background', 'leaf', 'disease')
SIZE = (48, 64)
TEXT = """_base_ = {base!r}
data_root = {root!r}
classes = {classes!r}
crop_size = (32, 32)
scale = (128, 32)
train_dataloader = dict(batch_size=4, num_workers=0)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
model = dict(warmup_iters=0, segmentor=dict(backbone=dict(base_channels=4), decode_head=dict(
    in_channels=4, channels=4)))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
{extra}
"""


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) and its mask (H, W), both uint8."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = rng.integers(60, 110, (*SIZE, 3))
    mask = np.zeros(SIZE, np.uint8)
    for _ in range(3):
        top, left = rng.uniform(0.2, 0.8, 2) * SIZE
        far = ((y - top) / 9) ** 2 + ((x - left) / 12) ** 2
        for number, reach, color in ((1, 1.0, (40, 170, 50)), (2, 0.2, (150, 90, 30))):
            image[far < reach] = color
            mask[far < reach] = number
    return image.astype(np.uint8), mask


def make_leaves(
    root: Path, labeled: int = 4, unlabeled: int = 6, val: int = 3, test: int = 0
) -> Path:
    """Write the folders that the README asks for."""
    rng = np.random.default_rng(0)
    parts = dict(labeled=labeled, unlabeled=unlabeled, val=val, test=test)
    for part, count in parts.items():
        for i in range(count):
            image, mask = scene(rng)
            path = root / f'images/{part}/{part[0]}{i}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=95)
            if part != 'unlabeled':
                path = root / f'annotations/{part}/{part[0]}{i}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
    return root


def leaves_config(
    path: Path, root: Path, extra: str = '', base: str = 'unimatch/unimatch_unet_custom.py'
) -> Path:
    """Write a small child of a shipped config for own images."""
    text = TEXT.format(base=str(CONFIGS / base), root=str(root), classes=CLASSES, extra=extra)
    path.write_text(text)
    return path
