"""Embeddings of the texts that describe classes, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_TOOL = 'tools/model_converters/clip_text.py'


def read_texts(key: str, path: str, classes: int, channels: int) -> tuple[Tensor, Tensor]:
    """Read the embeddings of texts, one or several of each class.

    Args:
        key: The config key that names the file, for messages.
        path: ``.npy`` or ``.pt``: an array (K, C) of one text a class; or ``.pt``: a dict of
            ``embeddings`` (R, C) and ``classes`` (R,), the class of each.
        classes: K.
        channels: C.

    Returns:
        Embeddings (R, C) of length 1, and the class of each, int64 (R,).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, or one for other classes or channels.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'{key}: there is no file {path}: correct the path, or write it with {_TOOL}'
        )
    try:
        if path.endswith('.npy'):
            content: Any = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            content = torch.load(path, map_location='cpu', weights_only=True)
        pair = isinstance(content, dict)
        embeddings = (content['embeddings'] if pair else content).float()
        index = content['classes'].long() if pair else torch.arange(len(embeddings))
    except Exception as error:  # whatever a damaged or another file gives
        raise ValueError(
            f'{key}: {path} holds no embeddings of texts ({type(error).__name__}): write it with '
            f'{_TOOL}'
        ) from error
    if (
        embeddings.dim() != 2
        or embeddings.shape[1] != channels
        or index.shape != embeddings[:, 0].shape
    ):
        raise ValueError(
            f'{key}: the embeddings of {path} are {tuple(embeddings.shape)} with classes '
            f'{tuple(index.shape)}, and {channels} channels a text are needed, those of the '
            f"encoder's last map: write it with {_TOOL}, with the same CLIP"
        )
    if index.unique().tolist() != list(range(classes)):
        raise ValueError(
            f'{key}: {path} has texts of {len(index.unique())} classes, and the model has '
            f'{classes}: write it with {_TOOL}, with a line for each class'
        )
    return F.normalize(embeddings, dim=1), index


def class_means(embeddings: Tensor, index: Tensor, classes: int) -> Tensor:
    """Mean embedding (K, C) of each class's texts, of length 1.

    Args:
        embeddings: Of texts (R, C).
        index: Class of each text (R,).
        classes: K.
    """
    total = embeddings.new_zeros(classes, embeddings.shape[1])
    return F.normalize(total.index_add_(0, index, embeddings), dim=1)
