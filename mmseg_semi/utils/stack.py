"""Where mmengine finds configs and classes of packages, and mmseg what it takes from mmdet."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.model import BaseModule
from mmengine.optim.optimizer.builder import register_transformers_optimizers
from mmengine.registry import OPTIMIZERS, Registry
from mmseg.registry import MODELS

# What brings a package, and what it imports without saying so.
_BROUGHT_BY = dict(
    mmpretrain='the torchvision that belongs to your torch, then it: '
    "pip install 'mmseg_semi[convnext]'"
)
FORK_PACKAGES = dict(mmseg='onedl-mmsegmentation', mmdet='onedl-mmdetection')


_mmengine_config_path = Config._get_cfg_path


def _config_path(base: str, filename: str) -> tuple[str, str | None]:
    """Path of a base config, and the scope of its components: ours register in mmseg's scope."""
    if '::' in base:
        return _packaged_config(base)
    return _mmengine_config_path(base, filename)


@cache  # mmengine reads all metafiles of the package, hundreds of them
def _packaged_config(base: str) -> tuple[str, str | None]:
    path, scope = _mmengine_config_path(base, '')
    return path, None if scope == 'mmseg_semi' else scope


def _is_distribution(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def find_package_configs() -> None:
    """Let ``mmseg_semi::...`` in ``_base_`` find this package's configs, ``mmseg::...`` the fork's.

    mmengine looks for a distribution of the listed name, and for a module when there is none. Of an
    editable install the distribution is not where the package is, so a module is given for ours;
    the configs are in ``.mim`` beside it. The fork's distributions have other names.
    """
    MODULE2PACKAGE['mmseg_semi'] = 'mmseg_semi.version'
    Config._get_cfg_path = staticmethod(_config_path)
    for module, package in FORK_PACKAGES.items():
        if not _is_distribution(MODULE2PACKAGE[module]) and _is_distribution(package):
            MODULE2PACKAGE[module] = package


def complete_mmseg(content: str) -> None:
    """Give mmseg's heads that are classes of mmdet their base.

    mmseg takes mmdet where it can import it, which the program ``mmseg-semi`` does not let it.

    Args:
        content: Of the config; heads that it does not name are left as they are.
    """
    for name in ('MaskFormerHead', 'Mask2FormerHead'):
        head = MODELS.module_dict.get(name)
        if name in content and head is not None and head.__bases__ == (BaseModule,):
            del MODELS.module_dict[name]
            module = importlib.reload(sys.modules[head.__module__])
            for owner in ('mmseg.models.decode_heads', 'mmseg.models'):
                setattr(sys.modules[owner], name, getattr(module, name))


def complete_optimizers(content: str) -> None:
    """Register the optimizer of transformers, which the programs import for who names it alone.

    Args:
        content: Of the config.
    """
    if 'Adafactor' in content and 'Adafactor' not in OPTIMIZERS.module_dict:
        register_transformers_optimizers()


def is_there(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def leave_multimodal_out() -> None:
    """Let mmpretrain import its networks alone.

    It imports its multimodal models wherever transformers is installed, and fails with version 5.
    """
    dependency: Any = importlib.import_module('mmpretrain.utils.dependency')
    dependency.WITH_MULTIMODAL = False


def registered(key: str, kind: str, registry: Registry) -> Any:
    """The class of a type, None where there is none.

    Args:
        key: Config key of the type, for messages.
        kind: The type; one of another package, such as ``mmpretrain.ConvNeXt``, imports it.
        registry: Where it is looked up.

    Raises:
        ModuleNotFoundError: That package cannot be imported.
    """
    package, reason = kind.partition('.')[0], 'is not installed'
    try:
        if package == 'mmpretrain' and is_there(package):
            leave_multimodal_out()
        found = registry.get(kind)
        if found is not None or '.' not in kind or is_there(package):
            return found
    except Exception as error:  # of that package, or of what it imports
        if '.' not in kind:
            raise
        if is_there(package):
            if isinstance(error, RuntimeError):  # of mmengine: it has no such class
                return None
            reason = f'cannot be imported ({error})'
    raise ModuleNotFoundError(
        f"{key}: '{kind}' needs {package}, which {reason}. "
        f'Install {_BROUGHT_BY.get(package, package)}.'
    )
