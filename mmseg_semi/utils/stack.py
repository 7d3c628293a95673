"""Where mmengine finds the configs of packages, and mmseg what it takes from mmdet."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.model import BaseModule
from mmseg.registry import MODELS

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
