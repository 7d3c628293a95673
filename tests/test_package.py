"""What importing the package needs and does."""

from __future__ import annotations

from tool_runs import CONFIGS, UNIMATCH

SCRIPT = """
import importlib.util, sys
try:
    import mmdet
except ImportError:
    print('no mmdet')
import mmseg_semi
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
init_default_scope('mmseg')
model = MODELS.build(Config.fromfile({config!r}).model)
print('built', type(model).__name__)
print('mmdet modules', sorted(name for name in sys.modules if name.split('.')[0] == 'mmdet'))
"""


def test_imports_and_builds_without_mmdet(plain_server, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT.format(config=str(CONFIGS / UNIMATCH)))
    done = plain_server.run(script, unblock=['mmseg_semi'])
    lines = done.output.splitlines()
    assert [line for line in lines if line.startswith(('no', 'built', 'mmdet'))] == [
        *('no mmdet', 'built SemiSegmentor', 'mmdet modules []')
    ]
