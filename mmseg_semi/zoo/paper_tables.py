"""The result tables of the papers: which configs they have, and what is known of each.

``configs/<method>/tables.yml`` holds them. The config files of the rows, the tables of the methods'
README.md, metafile.yml and model-index.yml follow from it (tools/misc/write_configs.py), and
tools/benchmarks/run_table.py runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mmseg_semi.datasets.benchmark_layouts import BENCHMARK_LAYOUTS

TABLES_FILE = 'tables.yml'
#: Digit scenes are no paper's: 1440 unlabeled images beside the labeled ones.
DIGIT_SCENES, DIGIT_SCENES_UNLABELED = 'digit-scenes', 1440
CLASSIC = dict(voc12=('92', '183', '366', '732', '1464'))
_TABLE_KEYS = {'name', 'caption', 'source', 'baselines', 'rows'}
_ROW_KEYS = {'dataset', 'model', 'crop', 'framework', 'paper'}


@dataclass(frozen=True)
class Row:
    """One config and its place in a table.

    Attributes:
        method: Folder of the method, such as 'rankmatch'.
        framework: The framework that it is put onto, where the method is a plug-in on several.
        model: Name of the network in config files.
        dataset: 'voc12', 'cityscapes', 'coco', 'lucchi' or 'digit-scenes'.
        split: Name of the split: '92', 'cps_662', 'u2pl_662', ...
        crop: Size of the crop where it is not the one that the method has by default.
        paper: mIoU in % that the paper reports, None where it is not at hand.
        seeds: mIoU in % of our runs by seed.
        commit: The commit that they were run from.
    """

    method: str
    framework: str | None
    model: str
    dataset: str
    split: str
    crop: int | None = None
    paper: float | None = None
    seeds: Mapping[int, float] = field(default_factory=dict)
    commit: str | None = None

    @property
    def prefix(self) -> str:
        """Method, and framework where there are several."""
        return f'{self.method}_{self.framework}' if self.framework else self.method

    @property
    def stem(self) -> str:
        """Name of the config without suffix."""
        crop = f'_{self.crop}x{self.crop}' if self.crop else ''
        split = self.split.replace('_', '-')
        return f'{self.prefix}_{self.model}_{self.dataset}-{split}{crop}'

    @property
    def config(self) -> str:
        """Path of the config, relative to the folder of all configs."""
        return f'{self.method}/{self.stem}.py'

    @property
    def split_folder(self) -> str:
        """Folder of the split's lists: Lucchi's are drawn, with seed 0."""
        return f'{self.split}-seed0' if self.dataset == 'lucchi' else self.split

    @property
    def labeled(self) -> int:
        """Number of labeled images."""
        return int(self.split.rsplit('_', 1)[-1])

    @property
    def unlabeled(self) -> int:
        """Number of unlabeled images."""
        if self.dataset == DIGIT_SCENES:
            return DIGIT_SCENES_UNLABELED
        total = BENCHMARK_LAYOUTS[self.dataset].num_train
        assert total is not None  # only a custom layout leaves it out
        return total - self.labeled


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        method: Folder of the method.
        name: Its name among the method's tables.
        caption: What is in it.
        source: Where its figures are from, where that is not simply the paper.
        baselines: Methods whose rows of the same networks and splits are printed with it.
        rows: Its rows.
    """

    method: str
    name: str
    caption: str
    source: str | None
    baselines: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def full_name(self) -> str:
        """The name that run_table.py takes."""
        return f'{self.method}/{self.name}'


@dataclass(frozen=True)
class Method:
    """A method: its paper and its tables.

    Attributes:
        folder: Name of its folder.
        name: Its name.
        paper: ``title``, ``venue`` and ``url``; empty for the supervised baseline.
        tables: Its tables.
    """

    folder: str
    name: str
    paper: Mapping[str, str | None]
    tables: tuple[Table, ...]

    @property
    def rows(self) -> list[Row]:
        """The rows of all tables, each config once."""
        return list({row.stem: row for table in self.tables for row in table.rows}.values())


def load_method(path: Path) -> Method:
    """Read a tables.yml.

    Raises:
        ValueError: An unknown or missing key, an unknown data set, a result of no row; names the
            file.
    """
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    folder, ours = path.parent.name, dict(content.get('ours') or {})
    tables = []
    for entry in content['tables']:
        _check_keys(path, f'table {entry.get("name")}', entry, _TABLE_KEYS, {'name', 'rows'})
        rows = [row for group in entry['rows'] for row in _read_rows(path, folder, group, ours)]
        tables.append(
            Table(
                *(folder, str(entry['name']), str(entry.get('caption', entry['name']))),
                *(entry.get('source'), tuple(entry.get('baselines') or ()), tuple(rows)),
            )
        )
    method = Method(folder, content['name'], content.get('paper') or {}, tuple(tables))
    unknown = set(ours) - {row.stem for row in method.rows}
    if unknown:
        raise ValueError(f'{path}: ours has results of configs of no table: {sorted(unknown)}')
    return method


def _check_keys(
    path: Path, what: str, entry: Mapping[str, Any], allowed: set[str], needed: set[str]
) -> None:
    wrong = sorted(set(entry) - allowed) or sorted(needed - set(entry))
    if wrong:
        raise ValueError(
            f'{path}: {what} has the unknown key or lacks the key {wrong}; allowed are '
            f'{sorted(allowed)}, needed {sorted(needed)}'
        )


def _read_rows(
    path: Path, method: str, group: Mapping[str, Any], ours: Mapping[str, Any]
) -> Iterable[Row]:
    _check_keys(path, f'row {dict(group)}', group, _ROW_KEYS, {'dataset', 'model', 'paper'})
    known = [*BENCHMARK_LAYOUTS, DIGIT_SCENES]
    if group['dataset'] not in known:
        raise ValueError(f'{path}: the data set {group["dataset"]!r} is none of {known}')
    for split, paper in group['paper'].items():
        if not isinstance(split, str):
            raise ValueError(f"{path}: write the split {split!r} as a text, in quotes: '{split}'")
        row = Row(
            *(method, group.get('framework'), group['model'], group['dataset'], split),
            *(group.get('crop'), paper),
        )
        result = ours.get(row.stem) or {}
        yield replace(row, seeds=dict(result.get('seeds') or {}), commit=result.get('commit'))


def load_methods(configs: Path) -> dict[str, Method]:
    """Read the tables of all methods, by folder."""
    methods = [load_method(path) for path in sorted(configs.glob(f'*/{TABLES_FILE}'))]
    return {method.folder: method for method in methods}


def find_table(methods: Mapping[str, Method], name: str) -> Table:
    """The table of a full name, such as ``rankmatch/table-1``.

    Raises:
        ValueError: There is no such table; lists those that there are.
    """
    tables = {table.full_name: table for m in methods.values() for table in m.tables}
    if name not in tables:
        listed = '\n'.join(f'  {full}: {table.caption}' for full, table in tables.items())
        raise ValueError(f'there is no table {name!r}. There are:\n{listed}')
    return tables[name]


def baseline_rows(methods: Mapping[str, Method], table: Table) -> list[Row]:
    """Rows of other methods that belong beside a table: the same data sets, splits and networks."""
    wanted = {(row.dataset, row.split, row.model) for row in table.rows}
    return [
        row
        for name in table.baselines
        for row in methods[name].rows
        if (row.dataset, row.split, row.model) in wanted
    ]
