"""Two gloo ranks on a CPU that call a function of a test file.

Run by the fixture ``on_two_ranks`` in a fork server: ``two_ranks.py MODULE FILE FUNCTION``, in a
folder with the function's other arguments in ``inputs.pt``; leaves ``rank0.pt`` and ``rank1.pt``.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Callable

import torch
import torch.distributed as dist


def load_function(module: str, file: str, name: str) -> Callable[..., Any]:
    """A function of a test file, which is imported as pytest does."""
    sys.path.insert(0, os.path.dirname(file))
    return getattr(importlib.import_module(module), name)


def be_rank(rank: int, function: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    """Join the group, call the function and keep what it returns."""
    torch.set_num_threads(1)
    store = f'file://{Path("store").resolve()}'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    torch.save(function(rank, *inputs), f'rank{rank}.pt')
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    """Fork the ranks and wait for both."""
    function, inputs = load_function(*sys.argv[1:]), torch.load('inputs.pt')
    ranks = []
    for rank in (0, 1):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            code = 1
            try:
                be_rank(rank, function, inputs)
                code = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
    sys.exit(any([os.waitpid(rank, 0)[1] for rank in ranks]))


if __name__ == '__main__':
    main()
