"""Published lists in all their styles, imported; what is wrong with them is named."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from tool_runs import TOOLS

from mmseg_semi.datasets.benchmark_layouts import CITYSCAPES, COCO, VOC12
from mmseg_semi.datasets.splits import split_hash
from mmseg_semi.prepare import import_splits

TOOL = TOOLS / 'dataset_converters' / 'import_splits.py'
VOC = [f'2007_{i:06}' for i in range(12)]
VOC_VAL = ['2008_000001', '2008_000002']
CITY = [f'{city}/{city}_{i:06}_000019' for city in ('ulm', 'bad-honnef') for i in range(6)]
SEMI = 'ImageSets/Segmentation/semi'


def small(layout):
    """The layout of 12 training images whose published splits have 3 labeled ones."""
    published = tuple(replace(split, labeled=3) for split in layout.published)
    return replace(layout, num_train=12, published=published)


@pytest.fixture
def tool(monkeypatch):
    layouts = {one.name: small(one) for one in (VOC12, CITYSCAPES, COCO)}
    monkeypatch.setattr(import_splits, 'BENCHMARK_LAYOUTS', layouts)
    return import_splits


def touch(root, layout, names, masks=True):
    for name in names:
        for folder, suffix in (
            (layout.img_dir, layout.img_suffix),
            (layout.seg_map_dir, layout.seg_map_suffix),
        )[: 1 + masks]:
            path = root / folder / f'{name}{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.fixture
def voc(tmp_path):
    """A VOC folder with empty files."""
    root = tmp_path / 'voc'
    touch(root, VOC12, VOC)
    touch(root, VOC12, VOC_VAL, masks=False)
    (root / SEMI).parent.mkdir(parents=True)
    (root / VOC12.val_list).write_text('\n'.join(VOC_VAL) + '\n')
    return root


@pytest.fixture
def city(tmp_path):
    root = tmp_path / 'city'
    touch(root, CITYSCAPES, CITY)
    touch(root, replace(CITYSCAPES, img_dir='leftImg8bit/val'), ['bonn/bonn_000000_000019'])
    return root


def pair(name):
    """A line of UniMatch's lists."""
    if name.isdigit():
        return f'train2017/{name}.jpg masks/{name}.png'
    if '/' in name:
        return (
            f'leftImg8bit/train/{name}_leftImg8bit.png gtFine/train/{name}_gtFine_labelTrainIds.png'
        )
    return f'JPEGImages/{name}.jpg SegmentationClass/{name}.png'


def image(name):
    """A line of U2PL's lists."""
    return f'leftImg8bit/train/{name}_leftImg8bit.png' if '/' in name else name


def lists(folder, line, names=VOC, labeled=3, seed=0, end='\n'):
    """Write published lists; returns the labeled and the unlabeled names in their order."""
    order = random.Random(seed).sample(names, len(names))
    parts = order[:labeled], order[labeled:]
    folder.mkdir(parents=True, exist_ok=True)
    for part, names_of_it in zip(('labeled', 'unlabeled'), parts):
        (folder / f'{part}.txt').write_bytes(end.join(map(line, names_of_it)).encode())
    return parts


def names_in(folder):
    return tuple(
        (folder / f'{p}.txt').read_text().split('\n')[:-1] for p in ('labeled', 'unlabeled')
    )


def rows(capsys):
    return {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}


def refused(tool, *args):
    with pytest.raises(SystemExit) as error:
        tool.main(list(map(str, args)))
    return str(error.value)


def run(tool, *args):
    tool.main(list(map(str, args)))


# ----------------------------------------------------------------------------------- what it makes
def test_unimatch_folders_become_ours_in_published_order(tool, voc, tmp_path, capsys):
    source = tmp_path / 'pascal'
    folders = {'92': '92', '1_16': 'cps_662', 'u2pl_1_16': 'u2pl_662', 'a/mine': 'a_mine'}
    parts = {ours: lists(source / f, pair, seed=i) for i, (f, ours) in enumerate(folders.items())}
    run(tool, 'voc12', source, '--data-root', voc)
    printed = rows(capsys)
    assert sorted(printed) == sorted(parts)
    for name, (labeled, unlabeled) in parts.items():
        assert names_in(voc / SEMI / name) == (labeled, unlabeled)
        code = split_hash(labeled, unlabeled)
        assert printed[name] == ['3', 'labeled', '9', 'unlabeled', code, 'written']
    assert len({tuple(names_in(voc / SEMI / name)[0]) for name in parts}) == 4
    run(tool, 'voc12', source, '--data-root', voc)
    assert {row[-1] for row in rows(capsys).values()} == {'unchanged'}


def test_names_only_folders_are_those_of_u2pl(tool, voc, tmp_path, capsys):
    for i, folder in enumerate(('92', '662', '5291')):
        lists(tmp_path / 'u2pl' / folder, image, seed=i)
    run(tool, 'voc12', tmp_path / 'u2pl', '--data-root', voc)
    assert sorted(rows(capsys)) == ['92', 'u2pl_5291', 'u2pl_662']


def test_both_styles_of_one_split_are_one_split(tool, voc, tmp_path, capsys):
    lists(tmp_path / 'unimatch' / 'u2pl_1_16', pair)
    lists(tmp_path / 'u2pl' / '662', image)
    run(tool, 'voc12', tmp_path, '--data-root', voc)
    assert list(rows(capsys)) == ['u2pl_662']
    lists(tmp_path / 'u2pl' / '662', image, seed=1)
    message = refused(tool, 'voc12', tmp_path, '--data-root', voc, '--overwrite')
    assert 'both the split u2pl_662' in message and 'unimatch/u2pl_1_16' in message


def test_cityscapes_of_both_repositories(tool, city, tmp_path, capsys):
    first = lists(tmp_path / 'unimatch' / '1_16', pair, CITY, seed=1)
    second = lists(tmp_path / 'u2pl' / '186', image, CITY, seed=2)
    run(tool, 'cityscapes', tmp_path / 'unimatch', '--data-root', city)
    run(tool, 'cityscapes', tmp_path / 'u2pl' / '186', '--data-root', city)
    assert list(rows(capsys)) == ['186', 'u2pl_186']
    assert names_in(city / 'semi' / '186') == first
    assert names_in(city / 'semi' / 'u2pl_186') == second
    # Our own files have no folder of the data set in their lines, so nothing says whose they are.
    message = refused(tool, 'cityscapes', city / 'semi' / '186', '--data-root', city)
    assert '--partition cps|u2pl' in message and 'semi/186' in message
    run(tool, 'cityscapes', city / 'semi' / '186', '--data-root', city, '--partition', 'cps')
    assert rows(capsys)['186'][-1] == 'unchanged'


def test_coco_without_files(tool, tmp_path, capsys):
    names = [f'{i:012}' for i in range(12)]
    parts = lists(tmp_path / 'lists' / '1_512', pair, names)
    run(tool, 'coco', tmp_path / 'lists', '--data-root', tmp_path / 'coco', '--skip-files')
    assert 'no val.txt' in capsys.readouterr().out
    assert names_in(tmp_path / 'coco' / 'semi' / '232') == parts


@pytest.mark.parametrize('source', ['st', 'st/1_16', 'st/1_16/split_0'])
def test_nested_splits(tool, voc, tmp_path, capsys, source):
    lists(tmp_path / 'st' / '1_16' / 'split_0', pair)
    run(tool, 'voc12', tmp_path / source, '--data-root', voc)
    assert list(rows(capsys)) == ['cps_662']


def test_other_nested_splits_keep_their_name(tool, voc, tmp_path, capsys):
    lists(tmp_path / 'st' / '1_16' / 'split_1', pair, labeled=5)
    for source in ('st', 'st/1_16', 'st/1_16/split_1'):
        run(tool, 'voc12', tmp_path / source, '--data-root', voc)
        assert list(rows(capsys)) == ['1_16_split_1']


@pytest.mark.parametrize('end', ['\n', '\r\n', '\n\n', ' \n'])
def test_line_ends_and_byte_order_mark(tool, voc, tmp_path, end):
    parts = lists(tmp_path / '92', pair, end=end)
    path = tmp_path / '92' / 'labeled.txt'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    run(tool, 'voc12', tmp_path / '92', '--data-root', voc)
    assert names_in(voc / SEMI / '92') == parts


def test_only(tool, voc, tmp_path, capsys):
    for i, folder in enumerate(('92', '1_16', 'u2pl_1_16', '183')):
        lists(tmp_path / 'lists' / folder, pair, seed=i)
    args = ('voc12', tmp_path / 'lists', '--data-root', voc, '--only')
    run(tool, *args, 'u2pl_662', '183')
    assert sorted(rows(capsys)) == ['183', 'u2pl_662']
    run(tool, *args, '1_16')
    assert list(rows(capsys)) == ['cps_662']
    message = refused(tool, *args, '93')
    assert '--only 93' in message and '183, 1_16, 92, u2pl_1_16' in message


def test_partition_must_be_said_where_nothing_tells_it(tool, voc, tmp_path, capsys):
    lists(tmp_path / '662', pair)
    args = ('voc12', tmp_path / '662', '--data-root', voc)
    message = refused(tool, *args)
    assert str(tmp_path / '662') in message and '--partition cps|u2pl' in message
    run(tool, *args, '--partition', 'cps')
    assert list(rows(capsys)) == ['cps_662']
    lists(tmp_path / 'mine', pair)
    message = refused(tool, 'voc12', tmp_path / 'mine', '--data-root', voc, '--partition', 'cps')
    assert '--partition cps' in message and 'none of the published splits' in message


def test_full_size_lists_as_a_script(server, tmp_path):
    """The published counts: 92 of 10582 are accepted, 93 are not."""
    names = [f'2009_{i:06}' for i in range(10582)]
    parts = lists(tmp_path / 'lists' / '92', pair, names, 92)
    args = ('voc12', tmp_path / 'lists', '--data-root', tmp_path / 'voc', '--skip-files')
    output = server.run(TOOL, *args).output
    assert f'92      92 labeled   10490 unlabeled  {split_hash(*parts)}  written' in output
    assert names_in(tmp_path / 'voc' / SEMI / '92') == parts
    lists(tmp_path / 'lists' / '92', pair, names, 93)
    output = server.run(TOOL, *args, '--overwrite', code=1).output
    assert 'names 93 images, but the published split 92 has 92' in output
    assert 'Traceback' not in output
    lists(tmp_path / 'lists' / '92', pair, names[1:], 92)
    assert '10581 images, but voc12 has 10582' in server.run(TOOL, *args, code=1).output


# -------------------------------------------------------------------------------- what it refuses
def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    'old, new, message',
    [
        ('labeled 2', 'labeled 1', 'labeled.txt, line 3: {1} stands here and in {labeled}, line 2'),
        ('unlabeled 0', 'labeled 0', '{unlabeled}, line 1: {0} stands here and in {labeled}'),
        ('unlabeled 4', 'val', '{unlabeled}, line 5: 1 of 9 images (2008_000001) are validation'),
        ('unlabeled 4', 'none', '{unlabeled}, line 5: 1 of 9 images (2009_999999) are not in JPEG'),
        ('labeled 0', 'word', "{labeled}, line 1: 'dog' is no image of voc12 in JPEGImages"),
        ('mask', 'cat.png', "labeled.txt, line 1: 'SegmentationClass/cat.png' is no mask of"),
        ('column', '', 'labeled.txt: every line must have one column'),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(tool, voc, tmp_path, old, new, message):
    folder = tmp_path / '92'
    parts = dict(zip(('labeled', 'unlabeled'), lists(folder, pair)))
    lines = {
        f'{part} {i}': pair(name) for part, names in parts.items() for i, name in enumerate(names)
    }
    lines.update(val=pair('2008_000001'), none=pair('2009_999999'), word='dog cat')
    paths = {part: folder / f'{part}.txt' for part in parts}
    first = parts['labeled'][0]
    lines['mask'], lines['column'] = f'{first}.png', f' SegmentationClass/{first}.png'
    edit(paths[old.split()[0] if ' ' in old else 'labeled'], lines[old], lines.get(new, new))
    expected = message.format(*parts['labeled'], **paths)
    assert expected in refused(tool, 'voc12', folder, '--data-root', voc)
    assert not (voc / SEMI).exists()


def test_missing_masks_and_images(tool, voc, tmp_path):
    labeled, unlabeled = lists(tmp_path / '92', pair)
    args = ('voc12', tmp_path / '92', '--data-root', voc)
    (voc / 'SegmentationClassAug' / f'{unlabeled[0]}.png').unlink()
    run(tool, *args)  # unlabeled images need none
    (voc / 'SegmentationClassAug' / f'{labeled[1]}.png').unlink()
    message = refused(tool, *args)
    assert f'labeled.txt, line 2: 1 of 3 images ({labeled[1]}) are without mask' in message
    (voc / 'JPEGImages' / f'{unlabeled[8]}.jpg').unlink()
    assert f'unlabeled.txt, line 9: 1 of 9 images ({unlabeled[8]})' in refused(tool, *args)
    run(tool, *args, '--skip-files')


def test_images_that_are_not_those_of_the_training_list(tool, voc, tmp_path):
    labeled, _ = lists(tmp_path / '92', pair)
    args = ('voc12', tmp_path / '92', '--data-root', voc)
    names = [name for name in VOC if name != labeled[0]]
    (voc / VOC12.train_list).write_text('\n'.join(names))
    assert f'({labeled[0]}) are no training images by ImageSets' in refused(tool, *args)
    (voc / VOC12.train_list).write_text('\n'.join([*VOC, '2010_000000']))
    assert 'in neither part: 2010_000000' in refused(tool, *args)


def test_validation_list_beside_the_splits(tool, tmp_path):
    labeled, unlabeled = lists(tmp_path / 'pascal' / '92', pair)
    (tmp_path / 'pascal' / 'val.txt').write_text(pair(unlabeled[3]))
    args = ('--data-root', tmp_path / 'voc', '--skip-files')
    for source in ('pascal', 'pascal/92'):
        message = refused(tool, 'voc12', tmp_path / source, *args)
        assert f'unlabeled.txt, line 4: 1 of 9 images ({unlabeled[3]}) are validation' in message


def test_sources_that_are_none(tool, voc, tmp_path):
    args = ('--data-root', voc)
    assert f'no folder {tmp_path / "none"}' in refused(tool, 'voc12', tmp_path / 'none', *args)
    assert 'no folder with labeled.txt' in refused(tool, 'voc12', voc, *args)
    lists(tmp_path / '92', pair)
    (tmp_path / '92' / 'unlabeled.txt').unlink()
    assert 'has labeled.txt but no unlabeled.txt' in refused(tool, 'voc12', tmp_path / '92', *args)
    lists(tmp_path / '92', pair)
    message = refused(tool, 'voc12', tmp_path / '92', '--data-root', tmp_path / 'no-data')
    assert 'no-data' in message and '--data-root' in message
    message = refused(tool, 'voc12', tmp_path / '92', *args, '--style', 'u2pl')
    assert '--style u2pl' in message and 'labeled.txt has 2 columns' in message


def test_one_bad_split_keeps_the_good_ones_from_being_written(tool, voc, tmp_path):
    lists(tmp_path / 'lists' / '183', pair)
    lists(tmp_path / 'lists' / '92', pair, labeled=4)
    message = refused(tool, 'voc12', tmp_path / 'lists', '--data-root', voc)
    assert 'the published split 92 has 3' in message and not (voc / SEMI).exists()


def test_another_split_of_the_name_needs_overwrite(tool, voc, tmp_path, capsys):
    args = ('voc12', tmp_path / '92', '--data-root', voc)
    lists(tmp_path / '92', pair)
    run(tool, *args)
    new = lists(tmp_path / '92', pair, seed=1)
    message = refused(tool, *args)
    assert str(Path(SEMI, '92', 'labeled.txt')) in message and '--overwrite' in message
    run(tool, *args, '--overwrite')
    assert names_in(voc / SEMI / '92') == new
