"""Packaging of mmseg_semi; ``tools/setup_env.sh`` installs it with everything it needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Version out of ``mmseg_semi/version.py``, read as text: importing would need torch."""
    text = (ROOT / 'mmseg_semi' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE).group(1)


def read_requirements(name: str) -> list:
    """Requirements of ``requirements/<name>.txt`` without comments and empty lines."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    stripped = (line.split('#', 1)[0].strip() for line in lines)
    return [line for line in stripped if line]


def read_readme() -> str:
    """README.md, or nothing where a copy of the sources lacks it."""
    path = ROOT / 'README.md'
    return path.read_text(encoding='utf-8') if path.is_file() else ''


setup(
    name='mmseg_semi',
    version=read_version(),
    description='Semi-supervised semantic segmentation as a plugin of mmsegmentation 1.x',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='semantic segmentation, semi-supervised learning, mmsegmentation',
    packages=find_packages(include=['mmseg_semi', 'mmseg_semi.*']),
    python_requires='>=3.9,<3.13',
    install_requires=read_requirements('runtime'),
    # torch and mmcv are no install requirement: which build is right depends on the machine, and
    # the onedl fork has other distribution names. `mim` is the name that OpenMMLab's tools use.
    extras_require={
        'mim': read_requirements('mminstall'),
        'optional': read_requirements('optional'),
        'tests': read_requirements('tests'),
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
