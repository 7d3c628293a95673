"""mmpretrain, which brings ConvNeXt, where it is installed."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types

import pytest

from mmseg_semi.utils.stack import leave_multimodal_out

#: What mmpretrain imports of torchvision, for other parts than its networks.
OF_TORCHVISION = ('ops', 'ops.boxes', 'transforms', 'transforms.functional')
OF_TORCHVISION += ('transforms.transforms',)


class _StandIn(types.ModuleType):
    """A module that has any class, for an environment without torchvision."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__path__ = []

    def __getattr__(self, name: str) -> type:
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (), {})


def bring_mmpretrain() -> None:
    """Import its networks, or skip the test.

    It imports torchvision without saying that it needs it. Where that is missing a stand-in takes
    its place while mmpretrain is imported: nothing of a network calls it.
    """
    if importlib.util.find_spec('mmpretrain') is None:
        pytest.skip('ConvNeXt is in mmpretrain, which is not installed')
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec('torchvision') is None:
            for name in ('torchvision', *(f'torchvision.{one}' for one in OF_TORCHVISION)):
                patch.setitem(sys.modules, name, _StandIn(name))
            for name in OF_TORCHVISION:
                owner, _, last = f'torchvision.{name}'.rpartition('.')
                setattr(sys.modules[owner], last, sys.modules[f'torchvision.{name}'])
        leave_multimodal_out()
        importlib.import_module('mmpretrain.models')
