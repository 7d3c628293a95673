"""The configs of the papers' tables against their names, their README.md and metafile.yml."""

from __future__ import annotations

import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from tool_runs import CONFIGS, REPO

from mmseg_semi.zoo import check_configs as checker
from mmseg_semi.zoo import write_configs as writer
from mmseg_semi.zoo.paper_tables import DIGIT_SCENES, load_methods

PATHS = checker.benchmark_configs(CONFIGS)
METHODS = load_methods(CONFIGS)
#: What the README and the documents say; change it together with configs/*/tables.yml.
COUNTS = dict(voc12=269, cityscapes=134, coco=45, ade20k=20, lucchi=9)


def test_the_number_of_configs() -> None:
    found: dict[str, int] = {}
    for path in PATHS:
        dataset = checker.NAME.fullmatch(path.stem)['dataset']
        found[dataset] = found.get(dataset, 0) + 1
    print(f"{len(PATHS)} configs of the papers' tables: {found}")
    assert found == COUNTS
    in_tables = {row.config for method in METHODS.values() for row in method.rows}
    written = {str(path.relative_to(CONFIGS)) for path in PATHS}
    by_hand = {name for name in in_tables if DIGIT_SCENES in name}
    assert in_tables == written | by_hand and len(by_hand) == 32


@pytest.mark.parametrize('folder', sorted({path.parent.name for path in PATHS}))
def test_configs_are_what_their_names_say_and_build(folder: str) -> None:
    assert checker.check_configs(path for path in PATHS if path.parent.name == folder) == []


@pytest.mark.parametrize('folder', sorted(METHODS))
def test_readme_and_metafile_agree_with_the_files(folder: str) -> None:
    assert checker.check_method(CONFIGS / folder) == []


def test_the_index_imports_every_metafile() -> None:
    assert checker.check_index(CONFIGS) == []


def test_nothing_was_edited_behind_the_tables() -> None:
    files = writer.all_files(CONFIGS)
    assert [p for p, text in files.items() if p.read_text(encoding='utf-8') != text] == []
    assert writer.stale_files(CONFIGS, files) == []
    # Configs, ablations, detectors, README.md and metafile.yml of each method, overview and index.
    ablations = sum(len(method.ablation_rows) for method in METHODS.values())
    assert len(files) == len(PATHS) + ablations + 22 + 2 * len(METHODS) + 2
    overview = files[CONFIGS / 'README.md']
    assert f'| all | 269 | 134 | 45 | 20 | 9 | {len(PATHS)} |' in overview


def test_our_results_are_those_of_the_documents() -> None:
    text = (REPO / 'docs/results.md').read_text()
    rows = {
        Path(config).stem: [float(value) for value in seeds.split(', ')]
        for seeds, config in re.findall(r'\| ([\d., ]+) \| `(configs/\S+\.py)` \|', text)
    }
    assert len(rows) == 21
    tables = {row.stem: row for method in METHODS.values() for row in method.rows}
    for stem, values in rows.items():
        if stem in tables:
            assert list(tables[stem].seeds.values()) == values, stem
    assert sum(bool(row.seeds) for row in tables.values()) == len(rows) - 1  # one is an ablation


# ------------------------------------------------------------------------- the checker finds faults
@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of all configs that may be changed."""
    shutil.copytree(CONFIGS, tmp_path / 'configs')
    shutil.copy(REPO / 'model-index.yml', tmp_path)
    return tmp_path / 'configs'


VOC = 'rankmatch/rankmatch_deeplabv3plus_r50_voc12-183.py'
WEIGHTING = 'weighting/weighting_ael_deeplabv3plus_r101_cityscapes-u2pl-372.py'


@pytest.mark.parametrize(
    ('name', 'old', 'new', 'problem'),
    [
        (VOC, 'semi/183', 'semi/366', r"labeled.ann_file is '\S+semi/366/labeled.txt'"),
        (VOC, 'depth=50', 'depth=101', r'backbone.depth is 101; its name says 50'),
        (VOC, 'rankmatch_voc12.py', 'unimatch_voc12.py', r'crop is \(321, 321\); .* \(513, 513\)'),
        (VOC, 'rankmatch_voc12.py', 'nothing.py', r'can not be loaded: \w+'),
        (VOC, 'split =', 'train_cfg = dict(max_iter=3)\nsplit =', r'max_iter'),
        (VOC, 'split =', '\n' * 6 + 'split =', r'has 12 lines, more than 10'),
        (VOC, 'model = dict(', 'model = dict(mixer=dict(prob=2), ', r'can not be built: .*prob'),
        (WEIGHTING, 'detection/u2pl_372', 'detection/372', r'boxes is .*detection/372/unlabeled'),
        (WEIGHTING, 'weighting_ael_cityscapes', 'ael_cityscapes', r'crop is \(769, 769\)'),
    ],
)
def test_a_wrong_config_is_found(copy: Path, name: str, old: str, new: str, problem: str) -> None:
    path = copy / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    problems = checker.check_configs([path])
    assert problems and any(re.search(problem, one) for one in problems), problems
    assert all(one.startswith(str(path)) for one in problems)


def test_configs_that_share_a_broken_part_are_all_named_and_the_part_is_built_once(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build_model = checker.build_model
    monkeypatch.setattr(checker, 'build_model', lambda cfg: built.append(cfg) or build_model(cfg))
    names = [f'rankmatch/rankmatch_deeplabv3plus_r50_voc12-{n}.py' for n in (92, 183, 366, 732)]
    paths = [copy / name for name in names]
    for path in paths[1:]:  # the first stays right
        path.write_text(
            path.read_text().replace('model = dict(', 'model = dict(mixer=dict(prob=2), ')
        )
    problems = checker.check_configs(paths)
    assert len(problems) == 3
    for path, problem in zip(paths[1:], problems):
        assert problem.startswith(f'{path}: can not be built: ') and 'model.mixer: ' in problem
    assert len(built) == 2


def edit_metafile(path: Path, change: Any) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        (lambda models: models.pop(0), 'has no entry for rankmatch_deeplabv3plus_r50_voc12-92.py'),
        (lambda models: models.append(models[0]), 'names a model twice'),
        (lambda models: models[0].update(Config='configs/x.py'), 'Config of metafile.yml'),
        (lambda models: models[0]['Metadata'].update({'Labeled Images': 93}), 'number of labeled'),
        (lambda models: models[0]['Metadata'].update({'Paper mIoU': 99.0}), "the paper's mIoU"),
        (lambda models: models[0]['Metadata'].pop('Paper mIoU'), "the paper's mIoU"),
    ],
)
def test_a_wrong_metafile_is_found(copy: Path, change: Any, problem: str) -> None:
    folder = copy / 'rankmatch'
    edit_metafile(folder / 'metafile.yml', lambda content: change(content['Models']))
    assert any(problem in one for one in checker.check_method(folder))


@pytest.mark.parametrize(
    ('old', 'new', 'problem'),
    [
        ('| classic 92 | 92 + 10490 | 71.6 |', '| classic 92 | 92 + 10490 | 71.7 |', 'mIoU'),
        ('| 92 + 10490 | 71.6 |', '| 92 + 10491 | 71.6 |', 'number of all images'),
        ('(rankmatch_deeplabv3plus_r50_voc12-92.py)', '(rankmatch.py)', 'file of the link'),
        ('| 71.33 ± 2.76', '| 77.33 ± 2.76', 'our mIoU'),
    ],
)
def test_a_wrong_readme_is_found(copy: Path, old: str, new: str, problem: str) -> None:
    readme = copy / 'rankmatch' / 'README.md'
    assert old in readme.read_text()
    readme.write_text(readme.read_text().replace(old, new, 1))
    assert any(problem in one for one in checker.check_method(copy / 'rankmatch'))


def test_a_config_that_nothing_lists_is_found(copy: Path) -> None:
    extra = copy / 'rankmatch' / 'rankmatch_deeplabv3plus_r50_voc12-184.py'
    shutil.copy(copy / VOC, extra)
    problems = checker.check_method(copy / 'rankmatch')
    assert any('has no row for' in one for one in problems)
    assert any('has no entry for' in one for one in problems)
    assert writer.stale_files(copy, writer.all_files(copy)) == [extra]


# ------------------------------------------------------------------------------------- the writer
def run_writer(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr('sys.argv', ['write_configs.py', *args])
    writer.main()


def test_writing_follows_the_tables_and_checking_names_what_differs(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = copy / 'rankmatch' / 'tables.yml'
    tables.write_text(tables.read_text().replace("'183': 74.6, ", "'184': 74.6, ", 1))
    stem = 'rankmatch_deeplabv3plus_r50_voc12'
    old, new = (copy / 'rankmatch' / f'{stem}-{number}.py' for number in (183, 184))
    with pytest.raises(SystemExit, match='change configs'):
        run_writer(monkeypatch, '--check', '--configs', str(copy))
    printed = capsys.readouterr().out
    assert f'{new}: differs' in printed and f'{old}: is in no tables.yml' in printed
    assert old.is_file() and not new.exists(), 'checking writes nothing'
    run_writer(monkeypatch, '--configs', str(copy))
    assert new.is_file() and not old.exists()
    assert "semi/184'" in new.read_text()
    assert 'classic' not in writer.split_text(
        METHODS['rankmatch']
        .rows[0]
        .__class__('rankmatch', None, 'deeplabv3plus_r50', 'voc12', '93')
    )
    run_writer(monkeypatch, '--check', '--configs', str(copy))


def test_supervised_runs_are_as_long_as_the_semi_supervised_ones() -> None:
    rows = {row.stem: row for row in METHODS['supervised'].rows}
    voc = rows['supervised_deeplabv3plus_r50_voc12-92']
    assert writer.supervised_iterations(voc) == 80 * 1312  # ceil(10490 / 8)
    coco = rows['supervised_deeplabv3plus_xception65_coco-232']
    assert writer.supervised_iterations(coco) == 30 * 14757


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('dataset: voc12', 'dataset: voc', "data set 'voc' is none of"),
        ('model: deeplabv3plus_r50', 'network: x', "'network'"),
        ("{'92': 71.6", '{92: 71.6', "write the split 92 as a text, in quotes: '92'"),
        (
            'rankmatch_unet_digit-scenes-60:',
            'rankmatch_x:',
            r"configs of no table: \['rankmatch_x'\]",
        ),
    ],
)
def test_a_wrong_table_is_refused(copy: Path, old: str, new: str, message: str) -> None:
    tables = copy / 'rankmatch' / 'tables.yml'
    assert old in tables.read_text()
    tables.write_text(tables.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        load_methods(copy)
    assert str(tables) in str(error.value)


def test_means_in_the_readme_of_a_method_are_those_of_the_seeds() -> None:
    row = next(row for row in METHODS['unimatch'].rows if row.seeds)
    mean = statistics.mean(row.seeds.values())
    assert f'{mean:.2f} ± ' in writer.ours(row) and '(3 seeds, 37261c3)' in writer.ours(row)
    assert f'| {writer.ours(row)} |' in (CONFIGS / 'unimatch' / 'README.md').read_text()
