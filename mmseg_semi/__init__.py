"""Semi-supervised training as a plugin of mmsegmentation 1.x.

Importing this package registers everything in mmseg's registries, so a config needs only
``custom_imports = dict(imports=['mmseg_semi'])``.
"""

from .utils.safe_checkpoints import allow_mmengine_checkpoints
from .utils.safe_roads import close_roads
from .utils.stack import find_package_configs
from .utils.upstream_fixes import (
    count_right_pixels_fast,
    format_configs_once,
    let_class_weights_meet_unknown_pixels,
)
from .version import __version__

allow_mmengine_checkpoints()
close_roads()
find_package_configs()
let_class_weights_meet_unknown_pixels()
count_right_pixels_fast()
format_configs_once()

from . import datasets, detection, engine, evaluation, models  # noqa: E402

__all__ = ['__version__', 'datasets', 'detection', 'engine', 'evaluation', 'models']
