"""Loading and finding checkpoints safely.

torch >= 2.6 unpickles checkpoints with ``weights_only=True``, and mmengine 0.10's checkpoints
hold a few globals which that loader does not know. Exactly those are allowed here; the safe
loader is never turned off.
"""

from __future__ import annotations

import logging
import os.path as osp
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmseg_semi.errors import name_some

# Names of a run's checkpoints by their number.
_NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
_HISTORY_METHODS = ('current', 'max', 'mean', 'min')
_NO_CHECKPOINT = 'is no checkpoint of torch, or one of its old format that is damaged'
# How torch's safe loader, and the stand-in below, name what they refuse in a pickle.
_FOREIGN = re.compile(r"(?:GLOBAL |reaches for )([\w.]+(?: '\w+')?)")


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not one that can be used for this."""


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


def read_checkpoint(path: Union[str, Path], name: str = 'checkpoint') -> dict[str, Any]:
    """Read a checkpoint file with torch's safe loader, and verify it.

    A file of torch's zip format must be whole and fit its checksums; what it holds must be a dict,
    and all of its numbers finite.

    Args:
        path: The file.
        name: Option or key that names it, for the message.

    Returns:
        The content, on the CPU; weights are read from the file as they are used.

    Raises:
        CheckpointError: Names the option, the file, what is wrong with it and what to do.
    """
    problem = _file_problem(path)
    if problem is None:
        content, problem = _read(path)
    if problem is None:
        if isinstance(content, Mapping):
            problem = _content_problem(content)
        else:
            problem = f'holds a {type(content).__name__} and not a dict of weights'
    if problem is not None:
        raise CheckpointError(f'{name} {path}: the file {problem}. Name another checkpoint.')
    return dict(content)


def refuse_other_files(path: Union[str, Path], name: str = 'checkpoint') -> None:
    """Refuse a file that neither torch nor pickle has written, by its first bytes.

    Raises:
        CheckpointError: It is another kind of file.
    """
    with open(path, 'rb') as file:
        start = file.read(2)
    if start != b'PK' and start[:1] != b'\x80':
        raise CheckpointError(f'{name} {path}: the file {_NO_CHECKPOINT}. Name another checkpoint.')


def _read(path: Union[str, Path]) -> tuple[Any, Optional[str]]:
    """The content of a file, or what is wrong with it."""
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=is_complete(path)), None
    except Exception as error:  # a flipped bit may make any error
        found = _FOREIGN.search(str(error))
        if found:
            return None, (
                f'holds {found.group(1)}, which is neither tensor, number nor text; loading it '
                'could run a program, so it is refused'
            )
        if is_complete(path):
            return None, f'is damaged ({type(error).__name__} in its list of contents)'
        return None, _NO_CHECKPOINT


def _file_problem(path: Union[str, Path]) -> Optional[str]:
    """What is wrong with a file before anything of it is unpickled."""
    if not osp.isfile(path):
        return 'is a folder' if osp.isdir(path) else 'does not exist'
    with open(path, 'rb') as file:
        start = file.read(2)
    if not start:
        return 'is empty'
    if start != b'PK':  # of the old format, which has neither end nor checksums
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith('data.pkl') for name in archive.namelist()):
                return 'is a zip archive and no checkpoint'
            bad = archive.testzip()
    except zipfile.BadZipFile:
        return 'is cut short'
    except Exception as error:  # a flipped bit in the archive's directory
        return f'is damaged ({type(error).__name__} in its directory)'
    return None if bad is None else f'is damaged (the checksum of its part {bad} is wrong)'


def _content_problem(content: Mapping[str, Any]) -> Optional[str]:
    infinite = not_finite(content)
    if not infinite:
        return None
    names = name_some(infinite, 3)
    return f'holds numbers that are not finite, in {len(infinite)} of its tensors ({names})'


def not_finite(node: Any, name: str = '') -> list[str]:
    """Names of the tensors in dicts and lists that hold an infinite number or NaN."""
    if isinstance(node, torch.Tensor):
        if not node.is_floating_point():
            return []
        # A sum shows it six times as fast; one that overflows says nothing. Torch sums no float8.
        if node.element_size() > 1 and bool(node.detach().sum().isfinite()):
            return []
        return [] if bool(node.isfinite().all()) else [name]
    if isinstance(node, Mapping):
        items = list(node.items())
    elif isinstance(node, (list, tuple)):
        items = list(enumerate(node))
    else:
        return []
    prefix = '' if name in ('', 'state_dict') else f'{name}.'
    return [found for key, value in items for found in not_finite(value, f'{prefix}{key}')]


def refuse_incomplete(path: str, option: str) -> None:
    """Refuse a file that :func:`read_checkpoint` refuses; addresses are left to the loader.

    Raises:
        CheckpointError: Names the option, the file and what to do.
    """
    if '://' not in path:
        read_checkpoint(path, option)


def resumable_checkpoint(path: Union[str, Path], name: str = '--resume') -> dict[str, Any]:
    """Read a checkpoint that a run can go on from exactly, see :func:`read_checkpoint`.

    Raises:
        CheckpointError: The file is refused, or holds weights without the optimizer, the schedule
            or the iteration.
    """
    content = read_checkpoint(path, name)
    parts = dict(optimizer='optimizer', param_schedulers='schedule', message_hub='log')
    missing = [text for key, text in parts.items() if key not in content]
    meta = content.get('meta')
    if not isinstance(meta, Mapping) or not {'iter', 'epoch'} <= meta.keys():
        missing.append('iteration')
    if missing:
        others = [str(other) for _, other in numbered(Path(path).parent) if other != Path(path)]
        advice = f'resume from {others[0]}' if others else 'resume from one that has them'
        raise CheckpointError(
            f'{name} {path}: the file has weights, but no {", no ".join(missing)}, so the run can '
            f'not go on from it exactly; {advice}, or start a new run with load_from={path}'
        )
    return content


def numbered(folder: Union[str, Path]) -> list[tuple[int, Path]]:
    """The ``iter_N.pth`` and ``epoch_N.pth`` of a folder with their N, the largest first."""
    found = []
    for path in Path(folder).glob('*.pth'):
        number = number_of(path.name)
        if number is not None:
            found.append((number, path))
    return sorted(found, reverse=True)


def number_of(name: str) -> Optional[int]:
    """N of ``iter_N.pth`` and ``epoch_N.pth``, None for another name."""
    match = _NUMBERED.fullmatch(name)
    return int(match.group(1)) if match else None


def best_checkpoint(folder: Union[str, Path]) -> Optional[str]:
    """The newest checkpoint of a best validation that a folder keeps, None where it keeps none."""
    found = sorted(Path(folder).glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    return str(found[-1]) if found else None


def latest_checkpoint(folder: Union[str, Path]) -> Optional[str]:
    """Find the newest checkpoint of a run that it can go on from.

    The one of the folder that ``last_checkpoint`` names, unless that is damaged; then the sound
    ``iter_*.pth`` or ``epoch_*.pth`` with the largest number. What is passed over is logged.

    Args:
        folder: Where the run writes its checkpoints.

    Returns:
        Its path, or None when the folder holds no checkpoint.

    Raises:
        CheckpointError: There are checkpoints, and none that the run can go on from; or
            ``last_checkpoint`` names one of another folder.
    """
    named, candidates = _pointed(Path(folder)), [path for _, path in numbered(folder)]
    if named is not None:
        own = Path(folder) / named.name
        if own.is_file():
            candidates = [own, *(path for path in candidates if path != own)]
        elif not candidates and named.is_file():
            raise CheckpointError(
                f'--resume: last_checkpoint of {folder} names {named}, which is in another folder; '
                f'resume from it with --resume {named}, or remove last_checkpoint to start anew'
            )
    problems: list[str] = []
    for path in candidates:
        try:
            resumable_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            print_log(f'{problem} It is passed over.', logger='current', level=logging.WARNING)
        if problems:
            print_log(f'--resume: the run goes on from {path}', logger='current')
        return str(path)
    if problems:
        raise CheckpointError(
            f'--resume: none of the {len(problems)} checkpoints of {folder} can be gone on from. '
            f'{problems[0]} To start anew, give another --work-dir, or remove them.'
        )
    return None


def _pointed(folder: Path) -> Optional[Path]:
    """What ``last_checkpoint`` names, None where it says nothing that can be used."""
    pointer = folder / 'last_checkpoint'
    if not pointer.exists():
        return None
    try:
        text = pointer.read_bytes().decode().strip()
    except (OSError, UnicodeDecodeError):
        text = '\0'
    if '\0' not in text and '\n' not in text:
        return Path(text) if text else None
    print_log(
        f'{pointer} is not what a run writes there, and is not read',
        logger='current',
        level=logging.WARNING,
    )
    return None
