"""The README's instructions, followed to the letter."""

import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import mmseg_semi  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()


def section(title):
    return re.search(rf'^## {re.escape(title)}\n(.*?)(?=^## |\Z)', README, re.M | re.S).group(1)


def blocks(text, language):
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.M | re.S)


def write_leaves(folder):
    """A user's own images: labeled, unlabeled (nested, mixed suffixes) and validation."""
    rng = np.random.default_rng(0)
    for part, count in (('labeled', 3), ('val', 2)):
        for kind in ('images', 'annotations'):
            (folder / kind / part).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((90, 120), np.uint8)
            mask[20:60, 30:80], mask[40:50, 40:60], mask[:3] = 1, 2, 255
            image = mask[..., None] * 60 + rng.integers(0, 60, (90, 120, 3), np.uint8)
            cv2.imwrite(str(folder / f'images/{part}/{i}.jpg'), image)
            cv2.imwrite(str(folder / f'annotations/{part}/{i}.png'), mask)
    (folder / 'images/unlabeled/may/first').mkdir(parents=True)
    for name in ('a.jpg', 'may/b.png', 'may/first/c.JPEG', 'may/d.bmp'):
        image = rng.integers(0, 255, (100, 70, 3), np.uint8)
        cv2.imwrite(str(folder / 'images/unlabeled' / name), image)


def test_train_on_your_own_images(server, tmp_path):
    def run(command, *more):
        python, script, *words = shlex.split(command)
        assert python == 'python'
        return server.run(tmp_path / script, *words, *more, cwd=tmp_path).output

    text = section('Train on your own images')
    (config,) = blocks(text, 'python')
    assert len(config.strip().splitlines()) < 15
    train, test = blocks(text, 'bash')[0].strip().splitlines()
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools')
    (tmp_path / re.search(r'`(configs/\w+\.py)`', text).group(1)).write_text(config)
    write_leaves(tmp_path / 'data/leaves')
    # Only the length of the run, the batch and the workers are cut down.
    short = ['--cfg-options', 'iterations=2', 'train_dataloader.batch_size=4']
    for part in ('train', 'val', 'test'):
        short += [f'{part}_dataloader.num_workers=0', f'{part}_dataloader.persistent_workers=False']
    log = run(train, *short)
    assert '3 labeled and 4 unlabeled images' in log
    assert re.search(r'mIoU: +\d', log), 'validates at the end'
    (best,) = tmp_path.glob('work_dirs/leaves/best_mIoU_iter_*.pth')
    assert 'best_mIoU_iter_*.pth' in test and best.name in log
    log = run(test.replace('best_mIoU_iter_*.pth', best.name), *short)
    assert all(re.search(rf'\| +{name} +\|', log) for name in ('leaf', 'disease'))
    pictures = list((tmp_path / 'work_dirs/leaves').rglob('pictures/**/*.png'))
    assert len(pictures) == 2


MADE_BY_THE_READER = {
    f'configs/{n}.py' for n in ('leaves', 'nuclei_supervised', 'nuclei_weighting')
}
DOCUMENTS = {
    path.relative_to(ROOT / 'docs').as_posix(): path.read_text()
    for path in sorted((ROOT / 'docs').rglob('*.md'))
}


@pytest.mark.parametrize('name', DOCUMENTS)
def test_documents_name_only_files_that_exist_and_hold_no_placeholder(name):
    text = DOCUMENTS[name]
    paths = set(re.findall(r'(?:tools|configs|docs|tests)/[\w./-]+\.(?:py|sh|md|png)', text))
    assert not {path for path in paths - MADE_BY_THE_READER if not (ROOT / path).exists()}
    assert not re.findall(r'\b[A-Z]+_TABLE\b|TODO|FIXME', text)


def test_the_readme_names_only_files_that_exist():
    paths = re.findall(r'(?:tools|configs|docs|tests)/[\w./-]+\.(?:py|sh|md|png)', README)
    missing = {p for p in set(paths) - MADE_BY_THE_READER if not (ROOT / p).exists()}
    assert paths and not missing
