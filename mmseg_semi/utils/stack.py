"""Differences between the official OpenMMLab stack and its maintained fork."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from mmengine.config.utils import MODULE2PACKAGE

FORK_PACKAGES = dict(mmseg='onedl-mmsegmentation', mmdet='onedl-mmdetection')


def _is_distribution(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def find_fork_configs() -> None:
    """Let ``mmseg::...`` in ``_base_`` find the fork's configs where only the fork is installed.

    mmengine looks for the distribution ``mmsegmentation``, which the fork names differently.
    """
    for module, package in FORK_PACKAGES.items():
        if not _is_distribution(MODULE2PACKAGE[module]) and _is_distribution(package):
            MODULE2PACKAGE[module] = package
