"""The tables of the papers: which configs they have, and what is known of each.

``configs/<method>/tables.yml`` holds the results, ``ablations.yml`` beside it the ablations. The
config files of the rows, the tables of the methods' README.md, metafile.yml and model-index.yml
follow from them (tools/misc/write_configs.py), and tools/benchmarks/run_table.py runs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmseg_semi.datasets.benchmark_layouts import BENCHMARK_LAYOUTS
from mmseg_semi.utils.safe_roads import read_yaml

TABLES_FILE, ABLATIONS_FILE = 'tables.yml', 'ablations.yml'
#: Digit scenes are no paper's: 1440 unlabeled images beside the labeled ones.
DIGIT_SCENES, DIGIT_SCENES_UNLABELED = 'digit-scenes', 1440
CLASSIC = dict(voc12=('92', '183', '366', '732', '1464'))
_PLACE = ('method', 'framework', 'model', 'dataset', 'crop')
_TABLE_KEYS = {'name', 'paper_table', 'caption', 'source', 'baselines', 'rows', *_PLACE}
_ROW_KEYS = {'label', 'setting', 'reason', 'paper', *_PLACE}


@dataclass(frozen=True)
class Row:
    """One config and its place in a table.

    Attributes:
        method: Folder of the method, such as 'rankmatch'.
        framework: The framework that it is put onto, where the method is a plug-in on several.
        model: Name of the network in config files.
        dataset: 'voc12', 'cityscapes', 'coco', 'ade20k', 'lucchi' or 'digit-scenes'.
        split: Name of the split: '92', 'cps_662', 'u2pl_662', ...
        crop: Size of the crop where it is not the one that the method has by default.
        setting: Name of what an ablation changes; None where it changes nothing.
        keys: What it changes: values by dotted keys of the config.
        label: What the paper calls the row.
        reason: Why there is no config, None where there is one.
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
    setting: str | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)
    label: str = ''
    reason: str | None = None
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
        setting = f'_{self.setting}' if self.setting else ''
        return f'{self.prefix}_{self.model}_{self.dataset}-{split}{crop}{setting}'

    @property
    def config(self) -> str:
        """Path of the config, relative to the folder of all configs."""
        folder = f'{self.method}/ablations' if self.setting else self.method
        return f'{folder}/{self.stem}.py'

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
    """A table of results or of an ablation.

    Attributes:
        method: Folder of the method.
        name: Its name among the method's tables.
        paper_table: The paper's table or figure that it is of, such as 'Table 5'.
        caption: What is in it.
        source: Where its figures are from, where that is not simply the paper.
        baselines: Methods whose rows of the same networks and splits are printed with it.
        rows: Its rows, one for each split.
    """

    method: str
    name: str
    paper_table: str | None
    caption: str
    source: str | None
    baselines: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def full_name(self) -> str:
        """The name that run_table.py takes."""
        return f'{self.method}/{self.name}'

    @property
    def runs(self) -> list[Row]:
        """The rows that have a config."""
        return [row for row in self.rows if row.reason is None]


@dataclass(frozen=True)
class Method:
    """A method: its paper and its tables.

    Attributes:
        folder: Name of its folder.
        name: Its name.
        paper: ``title``, ``venue`` and ``url``; empty for the supervised baseline.
        tables: Its tables of results.
        ablations: The paper's ablations.
    """

    folder: str
    name: str
    paper: Mapping[str, str | None]
    tables: tuple[Table, ...]
    ablations: tuple[Table, ...] = ()

    @property
    def rows(self) -> list[Row]:
        """The rows of all tables of results that have a config, each config once."""
        return list({row.stem: row for table in self.tables for row in table.runs}.values())

    @property
    def ablation_rows(self) -> list[Row]:
        """The rows of all ablations that have a config of their own, each config once."""
        rows = [row for table in self.ablations for row in table.runs if row.setting]
        return list({row.stem: row for row in rows}.values())

    @property
    def all_tables(self) -> tuple[Table, ...]:
        """Results and ablations."""
        return self.tables + self.ablations


def load_method(path: Path) -> Method:
    """Read a tables.yml, and the ablations.yml beside it.

    Raises:
        ValueError: An unknown or missing key, an unknown data set, a result of no row, an ablation
            of no setting or of no config; names the file.
    """
    content = read_yaml(path)
    folder, ours = path.parent.name, dict(content.get('ours') or {})
    tables = _read_tables(path, folder, content['tables'], ours)
    method = Method(folder, content['name'], content.get('paper') or {}, tables)
    unknown = set(ours) - {row.stem for row in method.rows}
    if unknown:
        raise ValueError(f'{path}: ours has results of configs of no table: {sorted(unknown)}')
    path = path.with_name(ABLATIONS_FILE)
    if not path.is_file():
        return method
    content = read_yaml(path)
    settings = content['settings']
    method = replace(method, ablations=_read_tables(path, folder, content['tables'], {}, settings))
    unused = set(settings) - {row.setting for row in method.ablation_rows}
    if unused:
        raise ValueError(f'{path}: settings of no row: {sorted(unused)}')
    return method


def _read_tables(
    path: Path,
    folder: str,
    entries: Iterable[Mapping[str, Any]],
    ours: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> tuple[Table, ...]:
    tables = []
    for entry in entries:
        in_paper = entry.get('paper_table')
        name = str(entry.get('name') or in_paper or '').lower().replace(' ', '-')
        _check_keys(path, f'table {name}', entry, _TABLE_KEYS, {'rows'})
        place = {'method': folder, **{key: entry[key] for key in _PLACE if key in entry}}
        groups = [{**place, **group} for group in entry['rows']]
        rows = [row for group in groups for row in _read_rows(path, group, ours, settings or {})]
        tables.append(
            Table(
                *(folder, name, in_paper, str(entry.get('caption', name))),
                *(entry.get('source'), tuple(entry.get('baselines') or ()), tuple(rows)),
            )
        )
    return tuple(tables)


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
    path: Path, group: Mapping[str, Any], ours: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterable[Row]:
    _check_keys(path, f'row {dict(group)}', group, _ROW_KEYS, {'dataset', 'model', 'paper'})
    known = [*BENCHMARK_LAYOUTS, DIGIT_SCENES]
    if group['dataset'] not in known:
        raise ValueError(f'{path}: the data set {group["dataset"]!r} is none of {known}')
    setting = group.get('setting')
    if setting is not None and setting not in settings:
        raise ValueError(f'{path}: the setting {setting!r} is none of {sorted(settings)}')
    for split, paper in group['paper'].items():
        if not isinstance(split, str):
            raise ValueError(f"{path}: write the split {split!r} as a text, in quotes: '{split}'")
        row = Row(
            *(group['method'], group.get('framework'), group['model'], group['dataset'], split),
            *(group.get('crop'), setting, settings[setting] if setting else {}),
            *(str(group.get('label', '')), group.get('reason'), paper),
        )
        result = ours.get(row.stem) or {}
        yield replace(row, seeds=dict(result.get('seeds') or {}), commit=result.get('commit'))


def load_methods(configs: Path) -> dict[str, Method]:
    """Read the tables of all methods, by folder.

    Raises:
        ValueError: As :func:`load_method`, or an ablation of a config that no table has.
    """
    methods = [load_method(path) for path in sorted(configs.glob(f'*/{TABLES_FILE}'))]
    there = {row.stem for method in methods for row in method.rows}
    rows = [row for method in methods for table in method.ablations for row in table.runs]
    missing = [row.stem for row in rows if replace(row, setting=None).stem not in there]
    if missing:
        raise ValueError(f'{configs}: no {TABLES_FILE} has the configs of the ablations {missing}')
    return {method.folder: method for method in methods}


def find_table(methods: Mapping[str, Method], name: str) -> Table:
    """The table of a full name, such as ``rankmatch/table-1``.

    Raises:
        ValueError: There is no such table; lists those that there are.
    """
    tables = {table.full_name: table for m in methods.values() for table in m.all_tables}
    if name not in tables:
        listed = '\n'.join(f'  {full}: {table.caption}' for full, table in tables.items())
        raise ValueError(f'there is no table {name!r}. There are:\n{listed}')
    return tables[name]


def find_paper_table(methods: Mapping[str, Method], name: str) -> list[Table]:
    """The tables that a paper's one is spread over, by its name there, such as ``CorrMatch 5``.

    The method's folder serves as its name, and the word "table" may be left out.

    Raises:
        ValueError: There is no such table; lists those that there are.
    """
    wanted, found = _normalized(name), []
    for method in methods.values():
        for table in method.all_tables:
            names = {_normalized(f'{n} {table.paper_table}') for n in (method.name, method.folder)}
            if table.paper_table and wanted in names:
                found.append(table)
    if not found:
        listed = []
        for method in methods.values():
            there = dict.fromkeys(t.paper_table for t in method.all_tables if t.paper_table)
            listed += [f'  {method.name}: {", ".join(there)}'] if there else []
        raise ValueError(
            f'no paper has a table {name!r} that is known here. There are:\n' + '\n'.join(listed)
        )
    return found


def _normalized(name: str) -> str:
    """Name of a paper's table in small letters: "CorrMatch Table 5" and "corrmatch 5" are one."""
    return re.sub(r'\btable\b|[\s_-]', '', name.lower()).replace('supplementary', 's')
