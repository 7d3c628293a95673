"""The documents against the code: examples train, snippets build, tables and links are right."""

from __future__ import annotations

import importlib.util
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint
from mmseg.registry import DATASETS, HOOKS, MODELS
from tool_runs import CONFIGS, REPO, TOOLS, load_checkpoint

import mmseg_semi  # noqa: F401
from mmseg_semi.arguments import check_arguments

PAGES = [
    REPO / 'README.md',
    REPO / 'CHANGELOG.md',
    *sorted((REPO / 'docs').rglob('*.md')),
    *sorted(CONFIGS.glob('*/README.md')),
]
#: Written by tools, or listing names alone.
WRITTEN = {'compatibility.md', 'benchmarks.md', 'api.md'}


def blocks(path: Path, language: str = 'python') -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', path.read_text(), re.M | re.S)


def tables(path: Path) -> list[list[list[str]]]:
    """The cells of each table of a page, its head and its rule left out."""
    found = re.findall(r'(?:^\|.*\n)+', path.read_text(), re.M)
    return [
        [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()[2:]]
        for table in found
    ]


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


# ------------------------------------------------------------------------------------- examples
EXTENDING = blocks(REPO / 'docs/extending.md')
EXAMPLES = {
    re.match(r'# (\w+)\.py\n', code)[1]: (code, config)
    for code, config in zip(EXTENDING[::2], EXTENDING[1::2])
}


@pytest.fixture(scope='module')
def train_example(server: Any, digit_root: Path, tmp_path_factory: Any) -> Any:
    """Function that trains an example of docs/extending.md for two steps, from outside."""

    def train(name: str, *options: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(name)
        code, config = EXAMPLES[name]
        (folder / f'{name}.py').write_text(code)
        (folder / 'config.py').write_text(config.replace("'../", f"'{CONFIGS}/"))
        # A script in this folder, so that Python finds the example as it finds a user's file.
        script = folder / 'train.py'
        script.write_text(
            f"import runpy\nrunpy.run_path({str(TOOLS / 'train.py')!r}, run_name='__main__')\n"
        )
        data = 'train_dataloader.dataset'
        roots = (f'{data}.labeled', f'{data}.unlabeled', 'val_dataloader.dataset')
        small = [
            *(f'{part}.data_root={digit_root}' for part in roots),
            f'{data}.labeled.ann_file=splits/labeled_8.txt',
            'train_dataloader.batch_size=8',
            'train_cfg.max_iters=2',
            'train_cfg.val_interval=2',
            'model.warmup_iters=0',
        ]
        args = ['config.py', '--work-dir', 'work', '--cfg-options', *small, *options]
        server.run(script, *args, cwd=folder)
        return load_checkpoint(folder / 'work/iter_2.pth')['state_dict']

    return train


def test_every_example_is_tried() -> None:
    assert list(EXAMPLES) == ['mean_threshold', 'complementary_dropout', 'frozen_teacher']
    assert len(EXTENDING) == 2 * len(EXAMPLES)


def test_the_state_of_the_component_moves_and_is_saved(train_example: Any) -> None:
    state = train_example('mean_threshold')
    # From 0, two steps of momentum 0.9 towards confidences of more than 1/6 (six classes).
    assert 0.19 / 6 < state['refiners.select.value'] < 0.19


def test_the_framework_trains_with_its_teacher(train_example: Any) -> None:
    state = train_example('complementary_dropout')
    student = {key[10:] for key in state if key.startswith('segmentor.')}
    assert student == {key[8:] for key in state if key.startswith('teacher.')}


def test_the_example_of_a_teacher_never_moves(train_example: Any, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'fixmatch/fixmatch_unet_digit-scenes-60.py')
    network = MODELS.build(cfg.model.segmentor)
    save_checkpoint(dict(state_dict=network.state_dict()), str(tmp_path / 'before.pth'))
    state = train_example('frozen_teacher', f'model.teacher.checkpoint={tmp_path}/before.pth')
    for name, value in network.state_dict().items():
        assert torch.equal(state[f'teacher.{name}'], value), name
    assert not torch.equal(state['segmentor.decode_head.conv_seg.weight'], value)


@pytest.fixture(scope='module')
def complementary_dropout(tmp_path_factory: Any) -> Any:
    """The class of the example, registered once."""
    path = tmp_path_factory.mktemp('example') / 'complementary_dropout.py'
    path.write_text(EXAMPLES['complementary_dropout'][0])
    spec = importlib.util.spec_from_file_location('complementary_dropout', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault('complementary_dropout', module)
    spec.loader.exec_module(module)
    yield module.ComplementaryDropout
    MODELS.module_dict.pop('ComplementaryDropout')
    sys.modules.pop('complementary_dropout')


def test_what_one_view_drops_the_other_keeps(complementary_dropout: Any) -> None:
    maps = [torch.ones(8, 6, 2, 2), torch.ones(8, 3, 1, 1)]
    first, second = zip(*(one.split(4) for one in complementary_dropout()(maps, 2)))
    for one, other in zip(first, second):
        assert (one + other == 2).all()
        whole = (one == 1).flatten(1).all(1)
        assert whole.sum() == 2 and set(one[~whole].unique().tolist()) <= {0.0, 2.0}


# ------------------------------------------------------------------------------------- the streams
STREAM_TABLE = tables(REPO / 'docs/architecture.md')[2]


@pytest.mark.parametrize('row', STREAM_TABLE, ids=[row[0][:30] for row in STREAM_TABLE])
def test_the_table_of_passes(row: list[str], complementary_dropout: Any) -> None:
    _, labels, passes, streams = row
    drop = dict(type='FeatureDropout', prob=0.5)
    streams = eval(streams.strip('`'), dict(drop=drop))
    cfg = Config.fromfile(CONFIGS / 'fixmatch/fixmatch_unet_digit-scenes-60.py').model
    cfg.teacher = dict(student=None, teacher=dict(type='EMATeacher'))[labels]
    cfg.streams = streams
    if 'perturbed' in streams and 'S4MC' not in row[0]:
        cfg.losses.perturbed = dict(type='PseudoLabelCrossEntropy', stream='perturbed')
    model = MODELS.build(cfg)
    planned = [
        ', '.join(('~' if one.perturbation else '') + one.source for one in streams)
        for part in model.passes
        for streams in part
    ]
    assert planned == re.findall(r'\{(.*?)\}', passes)


def test_the_table_of_passes_is_whole() -> None:
    assert len(STREAM_TABLE) == 8


# ------------------------------------------------------------------------------------- snippets
SNIPPETS = [
    pytest.param(code, id=f'{path.relative_to(REPO)}-{number}')
    for path in PAGES
    if path.name not in {*WRITTEN, 'extending.md', 'predict.md', 'README.md'}
    for number, code in enumerate(blocks(path))
]


@pytest.mark.parametrize('code', SNIPPETS)
def test_snippets_build(code: str, tmp_path: Path) -> None:
    """Each config of the documents; one without a base is a part of a child config."""
    if '_base_ =' not in code:
        code = "_base_ = '../unimatch/unimatch_unet_custom.py'\n" + code
    code = re.sub(r"'(?=\w+/[\w-]+\.py')", f"'{CONFIGS}/", code)
    code = code.replace("'./", "'../unimatch/").replace("'../", f"'{CONFIGS}/")
    path = tmp_path / 'snippet.py'
    path.write_text(code)
    cfg = Config.fromfile(path)
    cfg.model.segmentor.pop('pretrained', None)
    cfg.model.segmentor.backbone.pop('init_cfg', None)
    assert type(MODELS.build(cfg.model)).__name__ == 'SemiSegmentor'
    assert all(HOOKS.build(hook) for hook in cfg.custom_hooks)
    dataset = cfg.train_dataloader.dataset
    for key, one in (('dataset', dataset), ('unlabeled', dataset.unlabeled)):
        given = {name: value for name, value in one.items() if name != 'type'}
        check_arguments(DATASETS.get(one.type), given, key, complete=False)
    named = [dataset.get('geometry', {}), dataset.unlabeled.get('strong', {}).get('transforms', {})]
    steps = [one for several in named for one in several.values() if isinstance(one, dict)]
    assert all('type' in one for one in steps)


def test_there_are_snippets_of_every_kind() -> None:
    assert len(SNIPPETS) == 15


# ------------------------------------------------------------------------------------- figures
def spread(values: list[float]) -> str:
    """Mean and standard deviation as the tables have them."""
    return f'{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}'


def test_means_of_the_digit_scenes_are_those_of_their_seeds() -> None:
    digits = next(table for table in tables(REPO / 'docs/results.md') if len(table) == 21)
    for _, _, mean, values, _, config in digits:
        assert mean == spread([float(value) for value in values.split(', ')])
        assert (REPO / config.strip('`')).is_file()


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    found = []
    for number, table in enumerate(tables(REPO / 'docs/results.md')[:5]):
        seeds = {row[0]: [float(one) for one in row[-1].split(', ')] for row in table}
        for name, *_, mean, gain, _ in table:
            assert mean == spread(seeds[name])
            more = [one - other for one, other in zip(seeds[name], seeds['supervised'])]
            error = statistics.stdev(more) / len(more) ** 0.5
            # Of ssTEM, three rows are compared with a supervised run that the text names.
            other = ('CorrMatch', 'RankMatch', 'S4MC') if number == 4 else ()
            if not name.startswith(('supervised', *other)) or name.startswith('supervised, '):
                assert within(gain, statistics.mean(more), error)
        found.append({row[0]: row[1] for row in table})
    real, _, nuclei, land, sstem = found
    rows = tables(REPO / 'README.md')[1]
    assert len(rows) == 15 == len(real)
    for name, *means in rows:
        assert means == [one.get(name, '') for one in (real, nuclei, land, sstem)]


def test_choosing_has_the_figures_of_the_results() -> None:
    real, _, nuclei, land, sstem = tables(REPO / 'docs/results.md')[:5]
    gains = [{row[0]: row[-2] for row in table} for table in (real, nuclei, sstem, land)]
    alone = {'S4MC on CutMix-Seg', 'CutMix-Seg'}  # have a teacher anyway
    rows = tables(REPO / 'docs/choosing.md')[0]
    assert len(rows) == 6
    for name, *cells in rows:
        full = name.removesuffix(', threshold 0.95')
        full += ', EMA teacher' if name not in alone else ''
        assert cells == [one[full] for one in gains]


def test_the_readme_is_short() -> None:
    words = [one for one in (REPO / 'README.md').read_text().split() if re.search(r'\w', one)]
    assert len(words) <= 900


def within(text: str, *numbers: float) -> bool:
    """Whether numbers are what the text says, but for the rounding of what they are made of."""
    return all(abs(float(a) - b) < 0.011 for a, b in zip(text.split(' ± '), numbers, strict=True))


# ------------------------------------------------------------------------------------- pages
def slugs(path: Path) -> set[str]:
    """The anchors of the headings of a page."""
    heads = re.findall(r'^#+ (.*)', path.read_text(), re.M)
    return {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}


@pytest.mark.parametrize('path', PAGES, ids=[str(path.relative_to(REPO)) for path in PAGES])
def test_links_lead_somewhere(path: Path) -> None:
    for target, _, anchor in re.findall(r'\]\((?!http)([^)#]*)(#([^)]*))?\)', path.read_text()):
        page = (path.parent / target).resolve() if target else path
        assert page.exists(), target
        assert not anchor or anchor in slugs(page), f'{target}#{anchor}'


@pytest.mark.parametrize('path', PAGES, ids=[str(path.relative_to(REPO)) for path in PAGES])
def test_lines_of_prose_are_short(path: Path) -> None:
    if path.name in WRITTEN:
        return
    prose = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.S)
    lines = [line for line in prose.splitlines() if not line.startswith(('|', '!['))]
    assert [line for line in lines if len(line) > 120] == []


def test_every_method_has_a_page() -> None:
    methods = {path.parent.name for path in CONFIGS.glob('*/tables.yml')} - {'supervised'}
    pages = {path.stem for path in (REPO / 'docs/methods').glob('*.md')}
    assert pages == methods
    for name in methods:
        assert f'docs/methods/{name}.md' in (CONFIGS / name / 'README.md').read_text()
        assert f'docs/methods/{name}.md' in (REPO / 'README.md').read_text()
