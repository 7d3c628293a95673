"""The roads on which a file can get into mmengine, mmcv and mmseg: none of them runs it.

A checkpoint, an annotation file, weights of classes, a YAML config are data, wherever they come
from. mmengine unpickles some of them, and its YAML loader builds any Python object. A config file
in Python is a program and stays one: run those of people you trust.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.parse
from pathlib import Path
from typing import Any, Callable

import mmengine.fileio.handlers.registry_utils as handlers
import mmseg.utils
import torch
import yaml
from mmengine.fileio.handlers import BaseFileHandler, PickleHandler, YamlHandler
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmseg.datasets.transforms import loading
from mmseg.utils import io

from .safe_checkpoints import CheckpointError, read_checkpoint

PICKLE = (
    'is a pickle, and reading it could run a program, so it is refused: save it as .json, .npy or '
    '.pth (torch.save)'
)
# Plain data alone; the one in C is ten times as fast.
_YAML = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """Read a file of plain data."""
    loader = _YAML(path.read_text(encoding='utf-8'))
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _NoPickle(PickleHandler):
    """Writes pickles and reads none."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        raise ValueError(f'{getattr(file, "name", "this file")} {PICKLE}')


class _PlainYaml(YamlHandler):
    """Reads numbers, texts, lists and dicts, no Python objects."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        try:
            return super().load_from_fileobj(file, **{**kwargs, 'Loader': _YAML})
        except yaml.YAMLError as error:
            raise ValueError(
                f'this YAML file cannot be read, it may hold numbers, texts, lists and dicts only: '
                f'{" ".join(str(error).split())}'
            ) from error


def load_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint file for mmengine; see ``read_checkpoint``.

    Args:
        filename: The file.
        map_location: Not used; mmengine copies the weights to where the network is.
    """
    return read_checkpoint(os.path.expanduser(filename))


def load_address(
    url: str, model_dir: str | None = None, map_location: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Read a checkpoint from an address for mmengine, or the copy of it from before.

    Args:
        url: An http, https or file address.
        model_dir: Folder of the copies; None is torch's.
        map_location: Not used, see :func:`load_local`.
        **kwargs: Not used.

    Raises:
        CheckpointError: It cannot be downloaded, or is refused by ``read_checkpoint``.
    """
    path = downloaded_path(url, model_dir)
    if path.is_file():
        print_log(f'{url} is read from its copy {path}', logger='current')
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'downloading {url} to {path}', logger='current')
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (OSError, urllib.error.URLError, ValueError) as error:
            reason = getattr(error, 'reason', None) or error
            raise CheckpointError(
                f'{url} cannot be downloaded ({reason}): download it elsewhere and put it at {path}'
            ) from error
    try:
        return read_checkpoint(path, f'the copy of {url} in')
    except CheckpointError as error:
        raise CheckpointError(f'{error} Remove {path} to download it anew.') from error


def downloaded_path(url: str, model_dir: str | None = None) -> Path:
    """Where the file of an address is, or would be.

    Its name has a hash of the whole address before it: others may end in the same name.
    """
    name = os.path.basename(urllib.parse.urlparse(url).path)
    if name in ('', '.', '..'):
        raise CheckpointError(f'{url} names no file: give the address of a checkpoint')
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    folder = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
    return Path(folder, f'{digest}-{name}')


def _decode(plain: Callable[..., Any]) -> Callable[..., Any]:
    def datafrombytes(content: bytes, backend: str = 'numpy') -> Any:
        if backend == 'pickle':
            raise ValueError(f"decode_backend='pickle': the file {PICKLE}")
        return plain(content, backend)

    datafrombytes.safe = True  # type: ignore[attr-defined]
    return datafrombytes


def close_roads() -> None:
    """Let mmengine and mmseg read checkpoints, YAML and other files without running anything."""
    CheckpointLoader.register_scheme(prefixes='', loader=load_local, force=True)
    mmengine_checkpoint.load_from_local = load_local
    mmengine_checkpoint.load_url = load_address
    safe: dict[str, BaseFileHandler] = dict.fromkeys(('pkl', 'pickle'), _NoPickle())
    safe.update(dict.fromkeys(('yaml', 'yml'), _PlainYaml()))
    handlers.file_handlers.update(safe)
    if not hasattr(io.datafrombytes, 'safe'):
        safe_decode = _decode(io.datafrombytes)
        io.datafrombytes = loading.datafrombytes = mmseg.utils.datafrombytes = safe_decode
