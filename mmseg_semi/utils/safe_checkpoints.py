"""Loading and finding checkpoints safely.

torch >= 2.6 unpickles checkpoints with ``weights_only=True``, and mmengine 0.10's checkpoints
hold a few globals which that loader does not know. Exactly those are allowed here; the safe
loader is never turned off.
"""

from __future__ import annotations

import os.path as osp
import re
import zipfile
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint

_HISTORY_METHODS = ('current', 'max', 'mean', 'min')


def _history_buffer_getattr(owner: Any, name: str) -> Any:
    """Stand in for ``builtins.getattr`` in checkpoints; answers for ``HistoryBuffer`` alone.

    Raises:
        RuntimeError: Any other attribute is asked for.
    """
    if owner is HistoryBuffer and name in _HISTORY_METHODS:
        return getattr(HistoryBuffer, name)
    raise RuntimeError(
        f'refused to load a checkpoint that reaches for attribute {name!r} of {owner!r}: '
        'mmengine checkpoints do not need it'
    )


def _allowed_globals() -> list[Union[Any, tuple[Any, str]]]:
    core = np.core if not hasattr(np, '_core') else np._core
    reconstruct, scalar = core.multiarray._reconstruct, core.multiarray.scalar
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype]
    # The module's name differs between numpy 1 and 2; a checkpoint may come from either.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_)
    allowed += list({type(np.dtype(kind)) for kind in kinds})
    allowed.append((_history_buffer_getattr, 'builtins.getattr'))
    return allowed


def allow_mmengine_checkpoints() -> None:
    """Let torch's safe loader read mmengine's checkpoints, and nothing more."""
    add = getattr(torch.serialization, 'add_safe_globals', None)
    if add is not None:  # torch < 2.4 has no safe globals and no safe default either
        add(_allowed_globals())
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = _load_safely


def _load_safely(file: Any, map_location: Any = None, weights_only: Optional[bool] = None) -> Any:
    """Stand in for the fork's loader, which turns the safe one off when that refuses a file.

    It also takes ``getattr`` and ``HistoryBuffer`` back from torch's list after each file.
    """
    return torch.load(file, map_location=map_location, weights_only=True)


def is_complete(path: Union[str, Path]) -> bool:
    """Whether a checkpoint file was written to its end (its zip directory is readable)."""
    if not osp.isfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('data.pkl') for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def refuse_incomplete(path: str, option: str) -> None:
    """Refuse a checkpoint file that is not there or was cut short.

    Addresses and files of torch's old format, which show no end, are left to the loader.

    Raises:
        SystemExit: Names the option, the file and what to do.
    """
    if '://' in path:
        return
    if not osp.isfile(path):
        problem = 'does not exist'
    else:
        with open(path, 'rb') as file:
            start = file.read(2)
        if start and (start != b'PK' or is_complete(path)):
            return
        problem = 'is cut short or no checkpoint'
    raise SystemExit(f'{option} {path}: the file {problem}. Name another checkpoint.')


def checkpoint_seed(path: str) -> Optional[int]:
    """Seed of the run that wrote a checkpoint, None when it does not say."""
    checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=is_complete(path))
    return checkpoint.get('meta', {}).get('seed')


def latest_checkpoint(work_dir: Union[str, Path]) -> Optional[str]:
    """Find the newest complete checkpoint of a run.

    The one that ``last_checkpoint`` names, unless it is missing or cut short; then the complete
    ``iter_*.pth`` or ``epoch_*.pth`` with the largest number.

    Args:
        work_dir: Folder of the run.

    Returns:
        Its path, or None when the folder holds no complete checkpoint.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    if pointer.is_file():
        named = pointer.read_text().strip()
        # A run folder may have been moved since.
        for path in (Path(named), Path(work_dir) / Path(named).name) if named else ():
            if is_complete(path):
                return str(path)
    found = []
    for path in Path(work_dir).glob('*.pth'):
        match = re.fullmatch(r'(?:iter|epoch)_(\d+)\.pth', path.name)
        if match and is_complete(path):
            found.append((int(match.group(1)), str(path)))
    return max(found)[1] if found else None
