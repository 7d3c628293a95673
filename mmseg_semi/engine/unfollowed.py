"""Tools of others are stopped before they write a config whose variables nobody has followed."""

from __future__ import annotations

from functools import wraps
from typing import Any

from mmengine.runner import Runner

from mmseg_semi.utils.user_variables import followed

_dump_config = Runner.dump_config


@wraps(_dump_config)
def _dump_followed(self: Any) -> None:
    """Write the config into the work folder, where it takes the place of an earlier run's.

    Raises:
        ValueError: It was read by another tool than those of this project.
    """
    names = followed(self.cfg)
    if names:
        raise ValueError(
            f'{", ".join(names)} of this config have no effect with this tool: train and test '
            'it with mmseg-semi (or the scripts in tools), or use the config that a run has '
            'left in its folder, where they are followed'
        )
    _dump_config(self)


# The runner asks no hook before it writes.
Runner.dump_config = _dump_followed
