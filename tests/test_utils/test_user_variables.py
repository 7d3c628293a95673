"""The variables at the top of one's own config, and what follows from them."""

from __future__ import annotations

import json
import re
import runpy
from ast import literal_eval

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from tool_runs import CONFIGS

from mmseg_semi.utils.config import load_config

CUSTOM = sorted(CONFIGS.glob('*/*_custom.py'))
PRESETS = sorted(CONFIGS.glob('custom/*.py'))
# Each config with one preset, and one config of each kind with all of them.
PAIRS = [(base, CONFIGS / 'custom/laptop.py') for base in CUSTOM]
PAIRS += [
    (base, preset)
    for base in CUSTOM
    for preset in PRESETS
    if base.name.startswith(('supervised_', 'unimatch_')) and preset.stem != 'laptop'
]
UNIMATCH = CONFIGS / 'unimatch/unimatch_unet_custom.py'
SUPERVISED = CONFIGS / 'supervised/supervised_unet_custom.py'
LEAVES = ('background', 'leaf', 'disease')


def own(folder, text, base=UNIMATCH, options=None):
    path = folder / 'mine.py'
    path.write_text(f'_base_ = {str(base)!r}\n{text}\n')
    return load_config(str(path), options)


def parts(cfg):
    training = cfg.train_dataloader.dataset
    heldout = [cfg[f'{name}_dataloader'].dataset for name in ('val', 'test')]
    return [training.labeled, *heldout], training.unlabeled


def network(cfg):
    return cfg.model.get('segmentor') or cfg.model


def test_a_part_may_be_left_out(tmp_path):
    (tmp_path / 'splits/some').mkdir(parents=True)
    text = f"""
data_root = {str(tmp_path)!r}
split = 'splits/some'
scale = (640, 160)
in_channels = 4
workers = 0
val_dataloader = val_cfg = val_evaluator = None
"""
    cfg = own(tmp_path, text)
    assert cfg.val_dataloader is None
    test = cfg.test_dataloader
    assert (test.num_workers, test.dataset.ann_file) == (0, 'splits/some/val.txt')
    loading, resize = test.dataset.pipeline[:2]
    assert (loading.in_channels, resize.scale) == (4, (640, 160))


@pytest.mark.parametrize('base', CUSTOM, ids=lambda path: path.stem)
def test_all_that_depends_on_a_variable_follows(tmp_path, base):
    crop = (98, 126) if 'dinov2' in base.stem else (96, 128)  # multiples of the patch
    text = f"""
data_root = 'data/leaves'
classes = {LEAVES!r}
crop_size = {crop}
scale = (640, 160)
iterations = 4000
"""
    cfg = own(tmp_path, text, base)
    masked, unlabeled = parts(cfg)
    every = [*masked, unlabeled] if unlabeled else masked
    assert {part.data_root for part in every} == {'data/leaves'}
    assert {tuple(part.metainfo.classes) for part in masked} == {LEAVES}
    assert network(cfg).decode_head.num_classes == 3
    assert cfg.model.get('warmup_iters', 400) == 400
    geometry = cfg.train_dataloader.dataset.geometry
    assert tuple(geometry.crop.crop_size) == crop
    assert tuple(geometry.resize.scale) == (640, 160)
    for part in masked[1:]:
        assert [one.scale for one in part.pipeline if one.type == 'Resize'] == [(640, 160)]
    sizes = cfg.tta_pipeline[-1].transforms[0]
    assert [tuple(one.scale) for one in sizes] == [(640, 160), (960, 240)]
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (4000, 400)
    assert cfg.default_hooks.checkpoint.interval == 400
    before = load_config(str(base)).param_scheduler
    for one, old in zip(cfg.param_scheduler, before, strict=True):
        for key in ('begin', 'end'):
            assert one.get(key) == (old.get(key) and old.get(key) / 5)
    assert not {'user_variables', 'data_root', 'classes', 'iterations'} & set(cfg)


@pytest.mark.parametrize(('base', 'preset'), PAIRS, ids=lambda path: path.stem)
def test_presets_go_on_all_and_ones_own_values_come_last(tmp_path, base, preset):
    path = tmp_path / 'mine.py'
    text = f"_base_ = {[str(base), str(preset)]}\ndata_root = 'data/leaves'\nworkers = 1\n"
    path.write_text(text)
    values = runpy.run_path(str(preset))
    if 'dinov2' in base.stem:  # takes multiples of 14, which a message says
        with pytest.raises(
            ValueError, match=r'crop_size=\(.*: set it to \((126|378|518|770), '
        ) as error:
            load_config(str(path))
        values['crop_size'] = literal_eval(str(error.value).partition('set it to ')[2])
        path.write_text(f'{text}crop_size = {values["crop_size"]}\n')
    cfg, plain = load_config(str(path)), load_config(str(base))
    assert cfg.train_cfg.max_iters == values['iterations'] != plain.train_cfg.max_iters
    assert cfg.train_dataloader.num_workers == 1 == cfg.val_dataloader.num_workers
    assert tuple(cfg.train_dataloader.dataset.geometry.crop.crop_size) == values['crop_size']
    parts_of_a_step = 1 if base.stem.startswith('supervised') else 2
    assert cfg.train_dataloader.batch_size == values.get('batch_size', 4) * parts_of_a_step
    rate = values.get('learning_rate', plain.optim_wrapper.optimizer.lr)
    assert cfg.optim_wrapper.optimizer.lr == rate
    if parts_of_a_step == 2:
        assert cfg.model.warmup_iters == values.get('start', 0.1) * values['iterations']
    assert not {'start', 'batch_size', 'workers', 'learning_rate'} & set(cfg)


@pytest.mark.parametrize('base', CUSTOM, ids=lambda path: path.stem)
def test_a_teacher_of_own_images_averages_in_the_start(base):
    cfg = load_config(str(base))
    assert ('supervised' in base.stem) == ('segmentor' not in cfg.model)
    if 'segmentor' in cfg.model:
        assert cfg.model.warmup_iters == 2000 and cfg.model.teacher.from_start is True
        threshold = cfg.model.refiners.get('select', {})
        assert threshold.get('update') != 'per_class' or threshold.warm_up is True


@pytest.mark.parametrize(
    ('bases', 'message'),
    [
        (['custom/laptop.py'], r'mine.py: \S+/custom/laptop.py is a preset for configs of own'),
        (
            ['unimatch/unimatch_unet_digit-scenes-60.py', 'custom/laptop.py'],
            r'is a preset for configs of own images, and no base is one: name one beside it',
        ),
        (
            ['unimatch/unimatch_unet_custom.py', 'custom/laptop.py', 'custom/gpu24.py'],
            r"set the same keys \(.*'iterations'.*\), and none comes first: name one method",
        ),
    ],
)
def test_presets_that_do_not_fit(tmp_path, bases, message):
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {[str(CONFIGS / base) for base in bases]}\n')
    with pytest.raises(ValueError, match=message):
        load_config(str(path))


def test_ones_own_folder_may_have_the_name_of_the_presets(tmp_path):
    (tmp_path / 'custom').mkdir()
    base = str(CONFIGS / 'unimatch/unimatch_unet_digit-scenes-60.py')
    (tmp_path / 'custom/mine.py').write_text(f'_base_ = {base!r}\ntrain_cfg = dict(max_iters=7)\n')
    assert load_config(str(tmp_path / 'custom/mine.py')).train_cfg.max_iters == 7


@pytest.mark.parametrize('swapped', [False, True])
def test_the_order_of_the_bases_does_not_matter(tmp_path, swapped):
    bases = [str(UNIMATCH), str(CONFIGS / 'custom/laptop.py')]
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {bases[::-1] if swapped else bases}\n')
    cfg = load_config(str(path))
    assert (cfg.train_cfg.max_iters, cfg.model.warmup_iters) == (600, 300)


def test_a_step_and_its_start(tmp_path):
    cfg = own(tmp_path, 'start = 0.4\niterations = 30\nbatch_size = 3\nworkers = 0')
    assert (cfg.model.warmup_iters, cfg.train_dataloader.batch_size) == (12, 6)
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        assert (loader.num_workers, loader.persistent_workers) == (0, False)
    text = 'train_dataloader = dict(sampler=dict(ratio=(2, 3)), batch_size=5)\nbatch_size = 4'
    assert own(tmp_path, text).train_dataloader.batch_size == 10


def test_labeled_crops_are_balanced_and_unlabeled_ones_are_not(tmp_path):
    text = 'balance = True\ncrop_size = (64, 96)\nscale = None'
    balanced = dict(type='ClassBalancedCrop', crop_size=(64, 96), prob=0.5)
    cfg = own(tmp_path, text)
    assert cfg.custom_hooks[-1] == dict(type='ClassWeightHook')
    training = cfg.train_dataloader.dataset
    assert training.labeled.geometry == dict(training.geometry, crop=balanced)
    assert training.geometry.crop == dict(type='RandomCrop', crop_size=(64, 96))
    assert 'geometry' not in training.unlabeled
    supervised = own(tmp_path, text, SUPERVISED).train_dataloader.dataset
    assert supervised.geometry == training.labeled.geometry
    for base in (UNIMATCH, SUPERVISED):
        plain = own(tmp_path, 'balance = False', base).train_dataloader.dataset
        assert 'geometry' not in plain.labeled and plain.geometry.crop.type == 'RandomCrop'


def test_what_is_left_out_stays(tmp_path):
    cfg, before = own(tmp_path, 'iterations = 20000'), load_config(str(UNIMATCH))
    assert cfg.to_dict() == before.to_dict()


@pytest.mark.parametrize(('steps', 'interval'), [(5, 5), (20, 10), (300, 30), (4000, 400)])
def test_short_runs_validate_ten_times_at_most_and_not_every_step(tmp_path, steps, interval):
    cfg = own(tmp_path, f'iterations = {steps}')
    assert (cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == (interval,) * 2


def test_images_as_they_are(tmp_path):
    cfg = own(tmp_path, 'scale = None')
    resize = cfg.train_dataloader.dataset.geometry.resize
    assert resize == dict(type='RandomRelativeResize', ratio_range=(0.5, 2.0))
    for part in parts(cfg)[0][1:]:
        assert [one.type for one in part.pipeline][:2] == ['LoadImageFromFile', 'LoadAnnotations']
    sizes = cfg.tta_pipeline[-1].transforms[0]
    assert [one.scale_factor for one in sizes] == [1.0, 1.5]
    assert not any('scale' in one for one in sizes)


@pytest.mark.parametrize('base', CUSTOM, ids=lambda path: path.stem)
def test_channels(tmp_path, base):
    cfg = own(tmp_path, "data_root = 'data/leaves'\nin_channels = 7", base)
    channels = dict(in_channels=7, statistics='data/leaves/channels.json')
    pipelines = [part.pipeline for part in parts(cfg)[0][1:]]
    pipelines += [[cfg.train_dataloader.dataset.loading], cfg.tta_pipeline]
    assert [one[0] for one in pipelines] == [dict(channels, type='LoadChannels')] * 4
    assert network(cfg).backbone.in_channels == 7
    assert channels.items() <= network(cfg).data_preprocessor.to_dict().items()


@pytest.mark.parametrize('test', [True, False])
def test_lists_of_split(tmp_path, test):
    lists = tmp_path / 'splits/50-seed0'
    lists.mkdir(parents=True)
    for name in ('labeled', 'unlabeled', 'val', *(['test'] if test else [])):
        (lists / f'{name}.txt').write_text('a\n')
    cfg = own(tmp_path, f"data_root = {str(tmp_path)!r}\nsplit = 'splits/50-seed0'")
    masked, unlabeled = parts(cfg)
    names = [part.ann_file for part in [*masked, unlabeled]]
    last = 'test' if test else 'val'
    assert names == [f'splits/50-seed0/{n}.txt' for n in ('labeled', 'val', last, 'unlabeled')]
    for part in masked:
        assert part.data_prefix == dict(img_path='images', seg_map_path='annotations')
    assert unlabeled.data_prefix == dict(img_path='images')


def test_classes_of_import_labels_are_taken(tmp_path):
    content = dict(classes=['background', 'cat'], palette=[[0, 0, 0], [250, 50, 50]])
    (tmp_path / 'classes.json').write_text(json.dumps(content))
    text = f'data_root = {str(tmp_path)!r}'
    assert parts(own(tmp_path, text))[0][0].metainfo == content
    cfg = own(tmp_path, f'{text}\nclasses = {LEAVES!r}')
    made = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]  # VOC's color map
    assert parts(cfg)[0][0].metainfo == dict(classes=LEAVES, palette=made[: len(LEAVES)])


def test_a_file_may_have_a_plain_list_of_classes(tmp_path):
    (tmp_path / 'names.json').write_text('["background", "cat"]')
    cfg = own(tmp_path, f"data_root = {str(tmp_path)!r}\nclasses = 'names.json'")
    made = [[0, 0, 0], [128, 0, 0]]
    assert parts(cfg)[0][0].metainfo == dict(classes=['background', 'cat'], palette=made)
    (tmp_path / 'names.json').write_text('3')
    with pytest.raises(ValueError, match='give the names of at least two classes'):
        own(tmp_path, f"data_root = {str(tmp_path)!r}\nclasses = 'names.json'")


def test_options_set_variables_and_what_follows_can_be_set_besides(tmp_path):
    options = {'iterations': 100, 'train_cfg.val_interval': 7}
    cfg = own(tmp_path, 'iterations = 4000', options=options)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (100, 7)
    assert cfg.default_hooks.checkpoint.interval == 10


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('data_root = 3', 'mine.py: data_root=3: give the folder of the data'),
        ('split = 50', "give a folder of lists in the data_root, such as split='splits/50-seed0'"),
        ('guard = 1', 'guard=1: it must be one of (True, False), got 1'),
        ('iterations = 1e3', 'it must be a whole number >= 1, got 1000.0 (write 1000)'),
        ("classes = ('leaf',)", 'give the names of at least two classes'),
        ("classes = ('a', 'b', 'a')", "classes must be different, and 'a' is there twice"),
        ("classes = 'leaf'", "mine.py: classes='leaf': give the names of at least two classes"),
        ("classes = 'names.json'", 'there is no file data/custom/names.json'),
        ('crop_size = 320', 'crop_size=320: give height and width in pixels, such as (320, 320)'),
        ('crop_size = (0, 320)', 'give height and width in pixels'),
        ('scale = (1280,)', 'give the largest width and height, or None for images as they are'),
        ('in_channels = 0', 'in_channels=0: it must be a whole number >= 1'),
        ('iterations = 1.5', 'iterations=1.5: it must be a whole number >= 1'),
        ('start = 500', 'start=500: it must be a number in [0, 1], got 500'),
        ('batch_size = 0', 'batch_size=0: it must be a whole number >= 1'),
        (
            'train_dataloader = dict(sampler=dict(ratio=(2, 2)))\nbatch_size = 3',
            'give a multiple of 2',
        ),
        ('balance = 0.5', 'balance=0.5: it must be one of (True, False), got 0.5'),
        ('workers = -1', 'workers=-1: it must be a whole number >= 0'),
        ('learning_rate = 0', 'learning_rate=0: it must be a number > 0, got 0'),
        ('iteration = 5', "nothing reads 'iteration'. Did you mean 'iterations'?"),
    ],
)
def test_values_that_cannot_be(tmp_path, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        own(tmp_path, text)


@pytest.mark.parametrize(('guard', 'wanted'), [(True, 'mIoU'), (False, None)])
def test_the_best_validation_is_kept(tmp_path, guard, wanted):
    cfg = own(tmp_path, f'guard = {guard}')
    assert cfg.default_hooks.checkpoint.save_best == wanted


def test_lists_that_are_not_there(tmp_path):
    (tmp_path / 'splits/5').mkdir(parents=True)
    (tmp_path / 'splits/5/labeled.txt').touch()
    message = f'no folder {tmp_path}/splits/9. Name one of those in {tmp_path} (splits/5), or make'
    with pytest.raises(ValueError, match=re.escape(message)):
        own(tmp_path, f"data_root = {str(tmp_path)!r}; split = 'splits/9'")


def test_a_wrong_option_is_named_as_one(tmp_path):
    with pytest.raises(ValueError, match='^--cfg-options iterations=-4: it must be a whole number'):
        own(tmp_path, 'iterations = 10\nsplit = None', options=dict(iterations=-4))


def test_another_tool_does_not_ignore_them(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = {str(UNIMATCH)!r}\nclasses = ('a', 'b', 'c')\niterations = 5\n")

    runner = Runner.__new__(Runner)  # as another tool has it
    written = tmp_path / 'work/mine.py'
    written.parent.mkdir()
    written.write_text('# of an earlier training\n')
    runner._work_dir, runner.cfg = str(written.parent), Config.fromfile(path)
    with pytest.raises(ValueError, match='classes, iterations of this config have no effect'):
        runner.dump_config()
    assert written.read_text() == '# of an earlier training\n'
    runner.cfg = load_config(str(path))
    runner.dump_config()
    assert Config.fromfile(written).train_cfg.max_iters == 5


def test_a_part_may_have_a_folder_of_its_own(tmp_path):
    (tmp_path / 'data/splits/some').mkdir(parents=True)
    text = f"""
data_root = {str(tmp_path / 'data')!r}
split = 'splits/some'
classes = ('a', 'b')
test_dataloader = dict(dataset=dict(data_root='elsewhere'))
train_dataloader = dict(dataset=dict(unlabeled=dict(data_prefix=dict(img_path='/photos'))))
"""
    cfg = own(tmp_path, text)
    test, training = cfg.test_dataloader.dataset, cfg.train_dataloader.dataset
    assert (test.data_root, test.data_prefix.img_path) == ('elsewhere', 'images/val')
    assert 'ann_file' not in test and tuple(test.metainfo.classes) == ('a', 'b')
    assert training.unlabeled.data_prefix.img_path == '/photos'
    assert 'ann_file' not in training.unlabeled
    assert training.labeled.ann_file == 'splits/some/labeled.txt'
    assert cfg.val_dataloader.dataset.ann_file == 'splits/some/val.txt'
