"""Code that runs on two gloo ranks of one machine, as forks of the fork server's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_SCRIPT = """
import os, sys
import torch
import torch.distributed as dist
from mmseg_semi.utils.runner_setup import finish_distributed

{body}

def start(rank):
    torch.set_num_threads(1)
    given = torch.load('inputs.pt')
    before = alone(given) if 'alone' in globals() else None
    store = f'file://{{os.getcwd()}}/store'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    torch.save((before, run(rank, given)), f'rank{{rank}}.pt')
    finish_distributed()

pids = []
for rank in (0, 1):
    pid = os.fork()
    if pid == 0:
        try:
            start(rank)
        except BaseException as error:
            print(f'rank {{rank}}: {{error!r}}', flush=True)
            os._exit(1)
        os._exit(0)
    pids.append(pid)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
"""


def run_two_ranks(server: Any, folder: Path, body: str, given: Any) -> list[tuple[Any, Any]]:
    """Run ``run(rank, given)`` of a piece of code on two ranks.

    Args:
        server: The fixture of that name.
        folder: An empty folder.
        body: Source that defines ``run``, and ``alone(given)`` if something is to be computed
            before the ranks know of each other. torch is imported.
        given: Anything that ``torch.load`` reads.

    Returns:
        For each rank what ``alone`` (None without one) and what ``run`` returned.
    """
    torch.save(given, folder / 'inputs.pt')
    (folder / 'script.py').write_text(_SCRIPT.format(body=body))
    server.run(folder / 'script.py', cwd=folder, timeout=120)
    return [torch.load(folder / f'rank{rank}.pt') for rank in (0, 1)]
