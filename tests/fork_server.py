"""A Python process that imports the heavy packages once and forks for every command.

Importing mmseg takes many seconds; the integration tests run dozens of command line tools. Each
of them still is a process of its own, with its own ``sys.argv``, folder, environment and log.

Commands are JSON lines on stdin, answers are JSON lines on stdout. The first argument is a JSON
object: ``preload`` lists modules to import, ``block`` top-level packages that can not be imported.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.abc
import json
import os
import runpy
import signal
import sys
import threading
import time
import weakref
from typing import Any, Optional


class ImportBlocker(importlib.abc.MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def __init__(self, names: list[str]) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split('.')[0] in self.names:
            raise ModuleNotFoundError(f'No module named {name!r} (blocked by a test)', name=name)


def be_fast() -> None:
    """Let what is slow in packages, and no test looks at, be fast."""
    # Formatting a config takes longer than a few steps of training.
    importlib.import_module('mmengine.config.config').FormatCode = lambda text, **_: (text, True)
    # A data worker whose loader is gone without a word notices in half a second, not in five.
    importlib.import_module('torch.utils.data._utils.worker').MP_STATUS_CHECK_INTERVAL = 0.5
    # So does a loader whose worker had an error: it waits that long for it to end, then ends it.
    importlib.import_module('torch.utils.data._utils').MP_STATUS_CHECK_INTERVAL = 0.5


def run_script(request: dict[str, Any], blocker: ImportBlocker) -> None:
    """Be the command, in the forked child; leaves as a script does."""
    os.setsid()
    log = os.open(request['log'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    blocker.names -= set(request['unblock'])
    os.environ.update(request['env'])
    os.chdir(request['cwd'])
    sys.argv = request['argv']
    sys.path[:0] = [os.path.dirname(sys.argv[0]), *request['paths']]
    code: Any = None
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as end:
        code = end.code
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def leave(code: Any) -> None:
    """End as ``sys.exit`` does, but take nothing apart that the kernel drops at once.

    Objects that are taken apart one by one are copied for it, as their pages are the server's; this
    took longer than many a command. An exception that ends the interpreter, as Ctrl-C, does not get
    here.
    """
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((0 if code is None else code if isinstance(code, int) else 1) & 255)


def read_configs() -> None:
    """Read what most tests make their configs of, so that children need not."""
    cache = importlib.import_module('config_cache')
    cache.remember_configs()
    for name in ('digit-scenes-60', 'custom'):
        for path in cache.CONFIGS.glob(f'*/*_unet_{name}.py'):
            cache.Config.fromfile(path, import_custom_modules=False)
        if 'mmseg_semi' in sys.modules:  # it remembers what it has looked up of files and classes
            path = cache.CONFIGS / f'unimatch/unimatch_unet_{name}.py'
            importlib.import_module('mmseg_semi.utils.config').load_config(str(path))


def wait_for(pid: int, timeout: float) -> Optional[int]:
    """Exit code of a child (negative: the signal that ended it), None when it was too slow."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def main() -> None:
    """Serve until stdin ends."""
    settings = json.loads(sys.argv[1])
    blocker = ImportBlocker(settings['block'])
    sys.meta_path.insert(0, blocker)
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what packages print is no answer
    gc.disable()  # nothing that is imported is garbage
    for name in settings['preload']:
        importlib.import_module(name)
    be_fast()
    importlib.import_module('PIL.Image').init()  # the first picture imports all formats
    read_configs()
    gc.collect()
    gc.freeze()  # children collect garbage often; none of it is from here
    gc.enable()
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False  # of torch's libraries, which nobody misses
    for line in sys.stdin:
        request = json.loads(line)
        if request['do'] == 'start':
            sys.stdout.flush()
            answer = os.fork()
            if answer == 0:
                answers.close()
                run_script(request, blocker)
        else:
            answer = wait_for(request['pid'], request['timeout'])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()
