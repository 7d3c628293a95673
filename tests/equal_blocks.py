"""Networks of few equal blocks, where their depth is not looked at."""

from __future__ import annotations

import pytest
from mmseg.models.backbones.resnet import Bottleneck, ResNet

from mmseg_semi.models.backbones import xception65


def small_networks(patch: pytest.MonkeyPatch) -> None:
    """Make small what has no argument.

    A ResNet has two blocks a stage, of which the first differs from all others; Xception-65 has a
    single middle block, and an eighth of its channels.
    """
    blocks = {depth: (Bottleneck, (2, 2, 2, 2)) for depth in (50, 101)}
    patch.setattr(ResNet, 'arch_settings', {**ResNet.arch_settings, **blocks})
    patch.setattr(xception65, '_MIDDLE_BLOCKS', 1)
    patch.setattr(xception65, '_WIDTHS', [width // 8 for width in xception65._WIDTHS])
