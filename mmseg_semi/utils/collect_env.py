"""Report of what mmseg_semi runs on, for bug reports.

Run it with ``python -m mmseg_semi.utils.collect_env``.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Callable, Optional

from mmseg_semi.files import shipped_root
from mmseg_semi.version import __version__

STACKS = {
    'official': ('mmcv', 'mmengine', 'mmsegmentation', 'mmdet'),
    'onedl': ('onedl-mmcv', 'onedl-mmengine', 'onedl-mmsegmentation', 'onedl-mmdetection'),
}
OPTIONAL_PACKAGES = ('scikit-learn', 'tensorboard')
OPENCV_NAMES = (
    'opencv-python',
    'opencv-python-headless',
    'opencv-contrib-python',
    'opencv-contrib-python-headless',
)
MISSING = 'not installed'

VersionOf = Callable[[str], Optional[str]]


def distribution_version(name: str) -> Optional[str]:
    """Version of an installed distribution, None when there is none of that name."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def detect_stack(version_of: VersionOf = distribution_version) -> str:
    """Say which OpenMMLab stack is installed.

    The official stack and the onedl fork have the same import names, so only the names of the
    installed distributions tell them apart.

    Args:
        version_of: Gives the version of a distribution, or None when it is not installed.

    Returns:
        ``'official'``, ``'onedl'``, ``'mixed'`` (parts of both, which overwrite each other's
        files) or ``'none'``.
    """
    present = [stack for stack, names in STACKS.items() if any(version_of(name) for name in names)]
    if len(present) > 1:
        return 'mixed'
    return present[0] if present else 'none'


def describe_ops() -> str:
    """Say whether mmcv's compiled operators load, and for which devices they were built."""
    try:
        from mmcv.ops import get_compiler_version, get_compiling_cuda_version

        compiler, cuda = get_compiler_version(), get_compiling_cuda_version()
    except Exception as error:
        return f'do not load ({type(error).__name__}: {error})'.replace('\n', ' ')
    target = 'CPU only' if 'not' in cuda.lower() else f'CPU and CUDA {cuda}'
    return f'compiled for {target} with {compiler}'


def describe_devices() -> dict[str, str]:
    """Devices that torch sees: one row for the CPU, one for every CUDA device."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    rows = {'CPU': f'{cores} cores, {torch.get_num_threads()} torch threads'}
    if not torch.cuda.is_available():
        rows['CUDA devices'] = 'none'
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        rows[f'CUDA device {index}'] = f'{properties.name}, {memory:.1f} GiB'
    return rows


def describe_torch() -> str:
    """Version of torch and what it was built for."""
    import torch

    hip = getattr(torch.version, 'hip', None)
    if torch.version.cuda:
        target = f'CUDA {torch.version.cuda}'
    else:
        target = f'HIP {hip}' if hip else 'CPU'
    return f'{torch.__version__} (built for {target})'


def collect_env() -> dict[str, str]:
    """Collect versions, stack and devices.

    Returns:
        Name of each fact and its value, in the order in which they are printed. mmdet and the
        optional packages are looked up but not imported.
    """
    stack = detect_stack()
    rows = {
        'mmseg_semi': __version__,
        'Python': f'{platform.python_version()} ({sys.executable})',
        'Platform': platform.platform(),
        'Stack': stack,
    }
    listed = STACKS.get(stack, STACKS['official'] + (STACKS['onedl'] if stack == 'mixed' else ()))
    rows.update({name: distribution_version(name) or MISSING for name in listed})
    rows['mmcv operators'] = describe_ops()
    rows['torch'] = describe_torch()
    rows['numpy'] = distribution_version('numpy') or MISSING
    rows['opencv'] = next(
        (version for version in map(distribution_version, OPENCV_NAMES) if version), MISSING
    )
    rows.update(describe_devices())
    rows.update({name: distribution_version(name) or MISSING for name in OPTIONAL_PACKAGES})
    return rows


def format_env(rows: dict[str, str]) -> str:
    """Rows as aligned lines of text."""
    width = max(len(name) for name in rows)
    return '\n'.join(f'{name:<{width}}  {value}' for name, value in rows.items())


def main() -> None:
    """Print the report."""
    print(format_env(collect_env()))


def checkout_commit() -> str:
    """Return the commit of the repository, marked when files are changed; a wheel's version."""
    root = shipped_root()
    if root.name == '.mim':  # from a wheel: there is no repository
        return f'of version {__version__}'
    try:
        text = subprocess.check_output(
            ['git', 'describe', '--always', '--dirty'],
            text=True,
            stderr=subprocess.DEVNULL,
            cwd=root,
        )
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return text.strip()


if __name__ == '__main__':
    main()
