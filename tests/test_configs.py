"""Every shipped config builds; those of the papers' tables and ablations in tests of their own."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.utils import is_installed
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import DATASETS, TRANSFORMS
from tool_runs import CONFIGS

import mmseg_semi  # noqa: F401  (registers the components)
from mmseg_semi.engine.hooks import StateHook
from mmseg_semi.models import SemiSegmentor
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.weight_checks import build_shapes
from mmseg_semi.zoo import check_configs as checker

# test_benchmark_configs.py and test_ablation_configs.py have these.
OF_PAPERS = {
    *checker.benchmark_configs(CONFIGS),
    *(p for p in CONFIGS.glob('*/ablations/*.py') if 'digit-scenes' not in p.name),
}
SHIPPED = sorted(
    path
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts and path.parent.name != 'custom' and path not in OF_PAPERS
)
NAMES = [str(path.relative_to(CONFIGS)) for path in SHIPPED]
DETECTORS = [name for name in NAMES if Path(name).parts[0] == 'detection']
METHODS = {path.name for path in CONFIGS.iterdir() if path.is_dir()} - {'_base_', 'custom'}
#: They begin with weights that no address has, and have the papers' configs alone.
OF_PAPERS_ALONE = {'semivl'}


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def test_configs_are_found() -> None:
    assert len(NAMES) >= 3
    assert {Path(name).parts[0] for name in NAMES} == METHODS - OF_PAPERS_ALONE
    assert {'supervised', 'fixmatch', 'unimatch'} <= METHODS
    for name in NAMES:
        folder = Path(name).parts[0]
        prefix = 'faster-rcnn_' if folder == 'detection' else f'{folder}_'
        assert Path(name).name.startswith(prefix), name
    assert len(DETECTORS) >= 3


def test_no_config_lists_a_hook_that_moves_state() -> None:
    """Components bring theirs."""
    kinds = {kind.__name__ for kind in StateHook.__subclasses__()}
    assert {'EMAThresholdHook', 'ImageBankHook', 'MeanTeacherHook', 'MemoryBankHook'} <= kinds
    texts = {path: path.read_text() for path in CONFIGS.rglob('*.py')}
    assert [path for path, text in texts.items() if any(kind in text for kind in kinds)] == []


def test_no_config_edits_a_pipeline_by_place() -> None:
    """Data are changed by name."""
    texts = {path: path.read_text() for path in CONFIGS.rglob('*.py')}
    assert len(texts) > 400
    edits = re.compile(r'\[-2\]|\.insert\(|pipeline\[')
    assert not [str(path) for path, text in texts.items() if edits.search(text)]


@pytest.mark.parametrize('name', [name for name in NAMES if name not in DETECTORS])
def test_config_builds(name: str) -> None:
    config = Config.fromfile(str(CONFIGS / name))
    model = checker.build_model(config)
    assert isinstance(model, BaseSegmentor)
    assert isinstance(model, SemiSegmentor) == (Path(name).parts[0] != 'supervised')
    assert 'mmseg_semi' in config.custom_imports['imports']
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert DATASETS.get(config[key].dataset.type) is not None
    for transform in checker.all_transforms(config):
        TRANSFORMS.build(copy.deepcopy(transform))
    # The crop stands in the data alone.
    assert len(config.train_dataloader.dataset.geometry.crop.crop_size) == 2
    segmentor = config.model.get('segmentor', config.model)
    assert segmentor.data_preprocessor.get('size') is None


@pytest.mark.skipif(not is_installed('mmdet'), reason='detectors need mmdet')
@pytest.mark.parametrize('name', DETECTORS)
def test_detection_config_builds(name: str) -> None:
    from mmdet.registry import DATASETS, TRANSFORMS

    config = load_config(str(CONFIGS / name))
    assert config.default_scope == 'mmdet'
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = build_shapes(checker.without_downloads(config.model), 'mmdet')
        classes = config.train_dataloader.dataset.metainfo.classes
        assert detector.roi_head.bbox_head.num_classes == len(set(classes)) == len(classes)
        for part in ('train', 'test'):
            dataset = config[f'{part}_dataloader'].dataset
            assert DATASETS.get(dataset.type)._load_metainfo(dataset.metainfo)['classes'] == classes
            for transform in dataset.pipeline:
                TRANSFORMS.build(copy.deepcopy(transform))
    # The boxes are written beside the list of the images that they are for.
    test = config.test_dataloader.dataset
    assert config.test_evaluator.ann_file == test.data_root + test.ann_file
    assert config.test_evaluator.outfile_prefix + '.json' == config.test_evaluator.ann_file


@pytest.mark.parametrize('name', DETECTORS)
def test_classes_of_detectors_are_in_the_order_of_the_masks(name: str) -> None:
    """The categories of masks_to_coco.py come in the order of the masks' class numbers."""
    data = re.split('_fpn_|_efficientnet-lite0_', Path(name).stem)[1].replace('land-c', 'land_c')
    masks = Config.fromfile(str(CONFIGS / '_base_' / 'datasets' / f'{data.split("-")[0]}.py'))
    labeled = masks.train_dataloader.dataset.labeled
    meta = DATASETS.get(labeled.type)._load_metainfo(labeled.get('metainfo'))
    boxed = masks.get('detection_classes') or [c for c in meta['classes'] if c != 'background']
    detector = Config.fromfile(str(CONFIGS / name))
    classes = detector.train_dataloader.dataset.metainfo.classes
    assert list(classes) == [c for c in meta['classes'] if c in set(boxed)]


RELEASED = {path.stem for path in (CONFIGS / '_base_/methods/released').glob('*.py')}
#: Bases of data sets that take their method from one file.
SWAPPED = [
    (path, name)
    for path in sorted((CONFIGS / '_base_/benchmarks').glob('*.py'))
    for name in re.findall(r"'../methods/(\w+).py'", path.read_text())
    if name in RELEASED
]


@pytest.mark.parametrize(('base', 'method'), SWAPPED, ids=[path.stem for path, _ in SWAPPED])
def test_the_released_preset_takes_the_place_of_the_papers(base, method, tmp_path):
    """One name in ``_base_`` is changed; model and data agree on the strong views."""
    text = base.read_text().replace(f'../methods/{method}', f'../methods/released/{method}')
    path = tmp_path / 'config.py'
    path.write_text(text.replace("'../", f"'{CONFIGS}/_base_/"))
    cfg = Config.fromfile(path)
    released = Config.fromfile(CONFIGS / f'_base_/methods/released/{method}.py').method
    for key in released.keys() - {'test_cfg', 'refiners', 'labeled_mixer', 'mixer', 'teacher'}:
        assert cfg.model[key] == released[key], key
    views = cfg.model.get('streams', {}).get('strong', {}).get('views')
    data = cfg.train_dataloader.dataset.unlabeled.strong.num_views
    assert views in (None, data), 'model.streams.strong.views and the data'


def test_every_method_has_a_released_preset_that_is_tried():
    assert {name for _, name in SWAPPED} == RELEASED
