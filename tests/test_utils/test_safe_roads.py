"""Every road into an unpickler of mmengine, mmcv and mmseg is known, and none runs a file.

Each is tried with a file that would leave a mark.
"""

from __future__ import annotations

import functools
import http.server
import io
import os
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import mmcv
import mmengine
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmseg.apis import init_model
from mmseg.datasets.transforms import LoadBiomedicalData
from mmseg.models.losses import CrossEntropyLoss
from mmseg.utils import datafrombytes as exported
from mmseg.utils import io as mmseg_io
from tool_runs import CONFIGS, SUPERVISED, TOOLS

from mmseg_semi.detection import load_detections
from mmseg_semi.utils import safe_roads
from mmseg_semi.utils.safe_roads import downloaded_path

# Where the packages unpickle: file and call, and what keeps it from running a program.
KNOWN = {
    'mmengine/runner/checkpoint.py torch.load(': 'replaced, or torch is forced to be safe',
    'mmengine/utils/dl_utils/hub.py torch.load(': 'for torch < 1.7, and load_url is replaced',
    'mmengine/fileio/handlers/pickle_handler.py pickle.load(': 'replaced',
    'mmengine/fileio/handlers/yaml_handler.py yaml.load(': 'replaced',
    'mmengine/dataset/base_dataset.py pickle.loads(': 'what the process itself has pickled',
    'mmengine/dist/dist.py pickle.loads(': 'of the other ranks',
    'mmengine/dist/dist.py pickle.load(': 'of the other ranks, in a folder made for it',
    'mmseg/utils/io.py pickle.loads(': 'replaced',
    'mmseg/utils/io.py np.load(': 'numpy refuses objects',
    'mmseg/models/losses/utils.py np.load(': 'numpy refuses objects',
    'mmseg/evaluation/metrics/citys_metric.py np.load(': 'numpy refuses objects',
}
CALL = re.compile(
    r'(torch\.load\(|pickle\.loads?\(|yaml\.(?:unsafe_|full_)?load\(|np\.load\(|joblib\.load\()'
)


class Call:
    """Unpickled, it has made a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, (f'touch {self.marker}',)


@pytest.fixture
def marker(tmp_path) -> Iterator[Path]:
    path = tmp_path / 'marker'
    yield path
    assert not path.exists()


@pytest.fixture
def hostile(marker, tmp_path) -> Path:
    """A folder of files that would run a program: one of each kind."""
    folder = tmp_path / 'files'
    folder.mkdir()
    call = Call(marker)
    torch.save(dict(state_dict=dict(weight=call)), folder / 'new.pth')
    torch.save(dict(call=call), folder / 'old.pth', _use_new_zipfile_serialization=False)
    (folder / 'plain.pth').write_bytes(pickle.dumps(call))
    (folder / 'file.pkl').write_bytes(pickle.dumps(call))
    np.save(folder / 'file.npy', np.array([call], dtype=object))
    text = f'a: !!python/object/apply:os.system ["touch {marker}"]\n'
    for name in ('file.yaml', 'file.yml'):
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def address(hostile) -> Iterator[str]:
    """The folder, served over http."""
    handler = functools.partial(QuietHandler, directory=str(hostile))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_address[1]}'
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, *args: Any) -> None:
        """Nothing."""


def test_the_files_would_run(tmp_path):
    """So that the tests below test something."""
    pickle.loads(pickle.dumps(Call(tmp_path / 'there')))
    assert (tmp_path / 'there').is_file()


def test_all_roads_are_known():
    """A version that has another one fails here."""
    found = set()
    for package in (mmengine, mmcv, mmseg):
        root = Path(package.__file__).parent
        for path in root.rglob('*.py'):
            if '.mim' in path.parts:
                continue  # programs, not the library
            name = path.relative_to(root.parent).as_posix()
            found |= {f'{name} {call}' for call in CALL.findall(path.read_text())}
    assert found <= set(KNOWN), found - set(KNOWN)


def test_the_package_itself_has_no_unsafe_road():
    root = Path(__file__).parents[2] / 'mmseg_semi'
    calls = [line for path in root.rglob('*.py') for line in path.read_text().splitlines()]
    calls = [line for line in calls if CALL.search(line) and 'allow_pickle=False' not in line]
    assert all('weights_only=True' in line for line in calls), calls
    assert calls


LOCAL = ['new.pth', 'old.pth', 'plain.pth']
REFUSED = 'which is neither tensor, number nor text|could run a program|no checkpoint of torch'


@pytest.mark.parametrize('name', LOCAL)
@pytest.mark.parametrize(
    'load',
    [
        lambda path: CheckpointLoader.load_checkpoint(path, map_location='cpu'),
        lambda path: load_checkpoint(torch.nn.Linear(1, 1), path),
        lambda path: init_model(str(CONFIGS / SUPERVISED), path, device='cpu'),
        lambda path: torch.load(path),
        lambda path: BaseModule(dict(type='Pretrained', checkpoint=path)).init_weights(),
    ],
    ids=['loader', 'load_checkpoint', 'init_model', 'torch', 'init_cfg'],
)
def test_checkpoints_in_files(load, name, hostile):
    with pytest.raises(Exception, match=f'{REFUSED}|Weights only|weights_only'):
        load(str(hostile / name))


@pytest.mark.parametrize('name', LOCAL)
@pytest.mark.parametrize('way', ['loader', 'load_checkpoint', 'init_cfg'])
def test_checkpoints_at_addresses(way, name, address, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    url = f'{address}/{name}'
    with pytest.raises(Exception, match=REFUSED):
        if way == 'loader':
            CheckpointLoader.load_checkpoint(url, map_location='cpu')
        elif way == 'load_checkpoint':
            load_checkpoint(torch.nn.Linear(1, 1), url)
        else:
            BaseModule(dict(type='Pretrained', checkpoint=url)).init_weights()
    assert downloaded_path(url).is_file()  # it had been fetched


def test_a_sound_checkpoint_at_an_address_is_loaded_and_kept(
    hostile, address, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    said: list[str] = []
    monkeypatch.setattr(safe_roads, 'print_log', lambda text, **_: said.append(text))
    torch.save(dict(weight=torch.ones(2)), hostile / 'sound.pth')
    url = f'{address}/sound.pth?version=2'
    for _ in range(2):  # the second time from the copy
        content = CheckpointLoader.load_checkpoint(url)
        torch.testing.assert_close(content['weight'], torch.ones(2))
        (hostile / 'sound.pth').unlink(missing_ok=True)
    copy = tmp_path / 'hub/checkpoints' / downloaded_path(url).name
    assert said == [f'downloading {url} to {copy}', f'{url} is read from its copy {copy}']
    with pytest.raises(ValueError, match=f'{address}/none.pth cannot be downloaded .*not found'):
        CheckpointLoader.load_checkpoint(f'{address}/none.pth')


def test_addresses_that_end_in_the_same_name_are_different_files(
    hostile, address, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    urls = [f'{address}/{end}' for end in ('a/iter_2.pth', 'b/iter_2.pth', 'b/iter_2.pth?v=2')]
    for number, url in enumerate(urls):
        path = hostile / url.removeprefix(address).strip('/').split('?')[0]
        path.parent.mkdir(exist_ok=True)
        torch.save(dict(weight=torch.tensor(number)), path)
        assert CheckpointLoader.load_checkpoint(url)['weight'].item() == number
    assert [CheckpointLoader.load_checkpoint(url)['weight'].item() for url in urls] == [0, 1, 2]


@pytest.mark.parametrize(
    'read',
    [
        lambda folder: mmengine.load(folder / 'file.pkl'),
        lambda folder: mmengine.load(io.BytesIO((folder / 'file.pkl').read_bytes()), 'pkl'),
        lambda folder: mmengine.load(folder / 'file.yaml'),
        lambda folder: mmengine.load(folder / 'file.yml'),
        lambda folder: Config.fromfile(str(folder / 'file.yaml')),
        lambda folder: BaseDataset(ann_file=str(folder / 'file.pkl')),
        lambda folder: CrossEntropyLoss(class_weight=str(folder / 'file.pkl')),
        lambda folder: CrossEntropyLoss(class_weight=str(folder / 'file.npy')),
        lambda folder: mmseg_io.datafrombytes((folder / 'file.pkl').read_bytes(), 'pickle'),
        lambda folder: exported((folder / 'file.pkl').read_bytes(), 'pickle'),
        lambda folder: LoadBiomedicalData(decode_backend='pickle').transform(
            dict(img_path=str(folder / 'file.pkl'))
        ),
        lambda folder: LoadBiomedicalData(decode_backend='numpy').transform(
            dict(img_path=str(folder / 'file.npy'))
        ),
        lambda folder: load_detections.LoadDetections(
            classes=('a',), results=str(folder / 'file.pkl'), images=str(folder / 'file.pkl')
        ),
    ],
)
def test_other_files(read, hostile):
    with pytest.raises(Exception, match='refused|YAML|allow_pickle|JSON'):
        read(hostile)


def test_a_pickle_is_refused_in_one_sentence(hostile):
    with pytest.raises(ValueError, match='this file is a pickle, and reading it could run a prog'):
        mmengine.load(hostile / 'file.pkl')
    mmengine.dump([1, 2], hostile / 'results.pkl')  # written they are still
    assert pickle.loads((hostile / 'results.pkl').read_bytes()) == [1, 2]
    mmengine.dump(dict(a=[1, 'b']), hostile / 'plain.yaml')
    assert mmengine.load(hostile / 'plain.yaml') == dict(a=[1, 'b'])


def test_in_a_tool_torch_is_safe_whoever_asks(server, hostile, tmp_path):
    script = tmp_path / 'tool.py'
    script.write_text(
        'import sys, torch\nfrom mmseg_semi.errors import run_tool\n'
        'run_tool(lambda args: torch.load(args[0], weights_only=False))\n'
    )
    env = dict(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1')
    assert (
        'Weights only load failed'
        in server.run(script, hostile / 'new.pth', code=1, env=env).output
    )


@pytest.mark.parametrize('kind', ['file', 'address'])
@pytest.mark.parametrize('tool', ['test.py', 'load_from', 'pretrained', 'extract', 'resume'])
def test_the_tools_refuse_in_one_sentence(
    tool, kind, server, hostile, address, unimatch_run, tmp_path
):
    path = f'{address}/new.pth' if kind == 'address' else hostile / 'new.pth'
    work = ['--work-dir', tmp_path / 'work']
    train = [TOOLS / 'train.py', unimatch_run.config, *work]
    command = {
        'test.py': [TOOLS / 'test.py', unimatch_run.config, path, *work],
        'load_from': [*train, '--cfg-options', f'load_from={path}'],
        'pretrained': [*train, '--cfg-options', f'model.segmentor.pretrained={path}'],
        'extract': [
            TOOLS / 'model_converters/extract_segmentor.py',
            *(path, '--config', unimatch_run.config, '--out', tmp_path / 'out.pth'),
        ],
        'resume': [*train, '--resume', path],
    }[tool]
    output = server.run(*command, code=1, env=dict(TORCH_HOME=str(tmp_path / 'hub'))).output
    assert 'Traceback' not in output and 'weights_only' not in output
    assert re.search(r'^error: .*(new\.pth)', output, re.MULTILINE), output[-500:]
