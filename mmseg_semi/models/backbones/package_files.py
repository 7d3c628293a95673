"""Weights that come in an installed Python package, so that nothing is downloaded in a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.runner import CheckpointLoader

SCHEME = 'package://'


def package_file(address: str, key: str = '') -> Path:
    """Find a file of an installed package, which is not imported.

    Args:
        address: ``package://<package>/<path of the file in its folder>``.
        key: Config key, for the message.

    Raises:
        FileNotFoundError: The package is not installed, or has no such file.
    """
    name = f'{key}: {address}' if key else address
    package, _, inner = address.removeprefix(SCHEME).partition('/')
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None:
        raise FileNotFoundError(
            f'{name}: the package {package} is not installed. Install it: '
            f'pip install {package.replace("_", "-")}'
        )
    for folder in found.submodule_search_locations or ():
        if inner and (Path(folder) / inner).is_file():
            return Path(folder) / inner
    raise FileNotFoundError(f'{name}: the package {package} has no file {inner!r}. Correct it.')


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_package(filename: str, map_location: Optional[str] = None) -> Any:
    """Read weights from a file of a package: what mmengine calls for ``package://``."""
    return torch.load(package_file(filename), map_location=map_location, weights_only=True)
