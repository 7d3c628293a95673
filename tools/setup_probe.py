"""Say what an environment has and what it lacks; ``tools/setup_env.sh`` acts on it.

Run by the interpreter that is asked about: ``PYTHON tools/setup_probe.py STACK REPOSITORY``. Prints
``key=value`` lines, flushed one by one, so that a crash inside torch still leaves what came before:

    python      its version
    external    1 when pip must not write here (PEP 668) or cannot
    conflict    installed distributions of the other stack, whose import names are the same
    tools       unsatisfied build tools
    requires    unsatisfied requirements other than these, mmcv and mmseg_semi
    broken      `name==version` of distributions that were left half-installed
    junk        a directory that an interrupted installation left (one line each)
    pip         1 when pip is installed
    torch       version of the torch that imports, else empty
    torch_cuda  1 when that torch is built for a GPU
    mmcv        version of the installed mmcv in the right range, else empty
    mmcv_ops    ok, or why its compiled operators do not import
    project     ok when mmseg_semi is installed from the repository with its present version
    keep        `name==version` pins that no step may change
    done        1

Everything is decided by looking at what is installed, never by a marker file. Only the standard
library is used (and `packaging`, or pip's copy of it), because nothing else needs to be there.
"""

import importlib.metadata as metadata
import importlib.util
import os
import re
import sys
import sysconfig
from pathlib import Path

if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    sys.path.pop(0)  # tools/test.py and the like must not shadow modules

STACKS = {
    'official': {
        'mmcv': 'mmcv>=2.1.0,<2.2.0',
        'others': [
            'mmengine>=0.10.7,<1.0.0',
            'mmsegmentation>=1.2.2,<2.0.0',
            'mmdet>=3.3.0,<4.0.0',
        ],
    },
    'onedl': {
        'mmcv': 'onedl-mmcv>=2.3.6,<3.0.0',
        'others': [
            'onedl-mmengine>=0.10.12,<1.0.0',
            'onedl-mmsegmentation>=1.4.2,<2.0.0',
            'onedl-mmdetection>=3.5.1,<4.0.0',
        ],
    },
}
# To build mmcv and to install mmseg_semi. mmengine imports pkg_resources, which setuptools 81
# drops.
BUILD_TOOLS = ['setuptools<81', 'wheel', 'ninja', 'psutil', 'packaging']
# The same import names from yet other distributions.
FOREIGN_MMCV = ['mmcv-full', 'mmcv-lite']
# What an installed torch was built with or is used with: upgrading these can break it.
KEPT = ['torch', 'torchvision', 'torchaudio', 'triton', 'numpy']


def parse_requirement(line: str):
    """A `packaging` Requirement, by pip's copy of that package when it is not installed."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
    return Requirement(line)


def without_marker(line: str) -> str:
    """Name, extras and versions in one word, as an argument of pip."""
    parsed = parse_requirement(line)
    extras = f'[{",".join(sorted(parsed.extras))}]' if parsed.extras else ''
    return f'{parsed.name}{extras}{parsed.specifier}'


def canonical(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


def installed_distributions(paths=None) -> dict:
    """Canonical name -> distribution, the first on the path wins as it does for imports."""
    found = {}
    for dist in metadata.distributions(**({} if paths is None else {'path': paths})):
        name = dist.metadata['Name']
        if name:
            found.setdefault(canonical(name), dist)
    return found


def read_requirements(path: Path) -> list:
    """Requirement lines of a requirements file, without comments."""
    if not path.is_file():
        return []
    lines = (line.split('#', 1)[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def wanted(stack: str, repository: Path) -> list:
    """All requirements of the package except mmcv and the build tools, for one stack."""
    spec = STACKS[stack]
    own = {canonical(re.match(r'[\w.-]+', r).group()) for s in STACKS.values() for r in s['others']}
    listed = []
    for name in ('runtime', 'optional', 'tests'):
        for line in read_requirements(repository / 'requirements' / f'{name}.txt'):
            if canonical(re.match(r'[\w.-]+', line).group()) not in own and line not in listed:
                listed.append(line)
    return [line for line in spec['others'] + listed if not line.startswith('setuptools')]


def satisfied(requirement: str, dists: dict) -> bool:
    parsed = parse_requirement(requirement)
    if parsed.marker is not None and not parsed.marker.evaluate({'extra': ''}):
        return True
    dist = dists.get(canonical(parsed.name))
    return dist is not None and parsed.specifier.contains(dist.version or '0', prereleases=True)


def reachable(roots: list, dists: dict) -> tuple:
    """Names of installed distributions that `roots` need, and missing names, through all levels."""
    seen, missing, queue = set(), [], [canonical(r) for r in roots]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in dists[name].requires or []:
            parsed = parse_requirement(line)
            if parsed.marker is not None and not parsed.marker.evaluate({'extra': ''}):
                continue
            needed = canonical(parsed.name)
            if needed in dists:
                queue.append(needed)
            else:
                missing.append(without_marker(line))
    return seen, missing


def is_broken(dist) -> bool:
    """Whether pip was stopped while it installed this: no RECORD yet, or recorded files absent."""
    directory = getattr(dist, '_path', None)
    if directory is None or not str(directory).endswith('.dist-info'):
        return False
    installer = (dist.read_text('INSTALLER') or '').strip()
    if installer not in ('', 'pip', 'uv'):
        return False  # conda and Debian keep their own books
    record = dist.read_text('RECORD')
    if not record:
        return True
    base = Path(directory).parent
    for line in record.splitlines():
        name = line.rsplit(',', 2)[0].strip('"')
        if name and not name.endswith('.pyc') and not os.path.exists(os.path.join(base, name)):
            return True
    return False


def leftovers() -> list:
    """Directories of an interrupted pip: `~name` of a removal, dist-info without METADATA."""
    site = Path(sysconfig.get_paths()['purelib'])
    infos = (path for path in site.glob('*.dist-info') if not (path / 'METADATA').is_file())
    return sorted(str(path) for path in [*site.glob('~*'), *infos])


def externally_managed() -> bool:
    """Whether pip must not (PEP 668) or cannot write to this interpreter's packages."""
    paths = sysconfig.get_paths()
    if not os.access(paths['purelib'], os.W_OK):
        return True
    if sys.prefix != sys.base_prefix or os.environ.get('PIP_BREAK_SYSTEM_PACKAGES'):
        return False
    return os.path.exists(os.path.join(paths['stdlib'], 'EXTERNALLY-MANAGED'))


def project_state(repository: Path, dists: dict) -> str:
    """`ok`, or why mmseg_semi of this repository is not what gets imported."""
    text = (repository / 'mmseg_semi' / 'version.py').read_text()
    version = re.search(r"__version__ = '([^']+)'", text).group(1)
    dist = dists.get('mmseg-semi')
    if dist is None or dist.version != version:
        return f'not installed with version {version}'
    spec = importlib.util.find_spec('mmseg_semi')
    origin = Path(spec.origin or '').resolve() if spec is not None and spec.origin else None
    if origin is None or repository not in origin.parents:
        return f'installed from another place: {origin}'
    return 'ok'


def say(key: str, value) -> None:
    text = ' '.join(value) if isinstance(value, (list, tuple)) else str(value)
    print(f'{key}={text}'.replace('\n', ' '), flush=True)


def error_text(error: BaseException) -> str:
    return f'{type(error).__name__}: {error}'.splitlines()[0][:200]


def import_torch() -> tuple:
    """Version, GPU build or not; an empty version when torch does not import."""
    try:
        import torch

        built_for_gpu = torch.version.cuda or getattr(torch.version, 'hip', None)
        return str(torch.__version__), int(bool(built_for_gpu))
    except Exception:
        return '', 0


def import_ops() -> str:
    """`ok` when mmcv's compiled operators import with the torch that is here."""
    try:
        import mmcv._ext  # noqa: F401

        return 'ok'
    except Exception as error:
        return error_text(error)


def report(stack: str, repository: Path) -> None:
    """Print the lines that the module's docstring describes."""
    dists = installed_distributions()
    mmcv_requirement = STACKS[stack]['mmcv']
    say('python', '.'.join(str(part) for part in sys.version_info[:3]))
    say('external', int(externally_managed()))
    other = STACKS['onedl' if stack == 'official' else 'official']
    names = [re.match(r'[\w.-]+', r).group() for r in [other['mmcv'], *other['others']]]
    say('conflict', [name for name in names + FOREIGN_MMCV if canonical(name) in dists])

    needs = wanted(stack, repository)
    unsatisfied = [without_marker(line) for line in needs if not satisfied(line, dists)]
    lines = [*needs, *BUILD_TOOLS, mmcv_requirement, 'torch', 'pip']
    roots = [re.match(r'[\w.-]+', line).group() for line in lines]
    used, missing = reachable([root for root in roots if canonical(root) in dists], dists)
    say('pip', int('pip' in dists))
    say('tools', [line for line in BUILD_TOOLS if not satisfied(line, dists)])
    say('requires', list(dict.fromkeys(unsatisfied + missing)))
    broken = [dists[name] for name in sorted(used) if is_broken(dists[name])]
    say('broken', [f'{dist.metadata["Name"]}=={dist.version}' for dist in broken])
    for directory in leftovers():
        say('junk', directory)
    say('project', project_state(repository, dists))
    keep = [name for name in KEPT if name in dists and dists[name] not in broken]
    say('keep', [f'{name}=={dists[name].version}' for name in keep])

    version, cuda = import_torch()
    say('torch', version)
    say('torch_cuda', cuda)
    name = canonical(re.match(r'[\w.-]+', mmcv_requirement).group())
    say('mmcv', dists[name].version if satisfied(mmcv_requirement, dists) else '')
    say('mmcv_ops', import_ops() if version else 'no torch')
    say('done', 1)


if __name__ == '__main__':
    if len(sys.argv) != 3 or sys.argv[1] not in STACKS:
        sys.exit(f'usage: setup_probe.py {"|".join(STACKS)} REPOSITORY')
    report(sys.argv[1], Path(sys.argv[2]).resolve())
