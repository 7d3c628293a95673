import copy
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, loops
from mmseg.registry import DATASETS, HOOKS
from tool_runs import TOOLS
from torch import nn
from torch.utils.data import DataLoader

import mmseg_semi.engine.hooks.data_check_hook as module
from mmseg_semi.datasets import DataError, SemiSampler, semi_collate
from mmseg_semi.models.memories import FeatureMemoryBank, NegativeQueues
from mmseg_semi.models.mixers import ClassAwareCutMix
from mmseg_semi.utils.safe_checkpoints import CheckpointError


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def model_of(decode, auxiliary=3, cascade=False, wrapped=True):
    segmentor = nn.Module()
    heads = [Head(3), Head(decode)]
    segmentor.decode_head = nn.ModuleList(heads) if cascade else heads[1]
    segmentor.auxiliary_head = Head(auxiliary)
    if not wrapped:
        return segmentor
    model = nn.Module()
    model.segmentor = segmentor
    return model


@pytest.fixture
def val(scenes):
    """Config of a validation set of two images."""
    for i in range(2):
        scenes.image(f'val/images/v{i}.png')
        scenes.mask(f'val/masks/v{i}.png', [[0, 1, 2, i] * 10] * 32)
    prefix = dict(img_path='val/images', seg_map_path='val/masks')
    return scenes.labeled(ann_file='', data_prefix=prefix, test_mode=True)


@pytest.fixture
def runner(scenes, val):
    dataset = DATASETS.build(
        dict(type='SemiDataset', labeled=scenes.labeled(), unlabeled=scenes.unlabeled())
    )
    sampler = SemiSampler(dataset, batch_size=4, seed=0)
    return SimpleNamespace(
        train_dataloader=DataLoader(dataset, 4, sampler=sampler, collate_fn=semi_collate),
        train_loop=IterBasedTrainLoop.__new__(IterBasedTrainLoop),
        model=model_of(3),
        _val_dataloader=dict(dataset=copy.deepcopy(val)),
        _test_dataloader=None,
    )


def check(runner):
    HOOKS.build(dict(type='DataCheckHook')).before_train(runner)


def test_sound_data_are_summed_up(runner, monkeypatch):
    texts = []
    monkeypatch.setattr(module, 'print_log', lambda text, **_: texts.append(text))
    check(runner)
    assert texts == [
        'Data: 5 labeled and 7 unlabeled images, 4 iterations per epoch '
        '(batch: 2 labeled + 2 unlabeled on each of 1 ranks)'
    ]


def test_epoch_based_loop_is_refused(runner):
    runner.train_loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    with pytest.raises(ValueError, match='EpochBasedTrainLoop, but SemiSampler never ends.*SemiTr'):
        check(runner)


@pytest.mark.parametrize('part', ['_val_dataloader', '_test_dataloader'])
@pytest.mark.parametrize('built', [True, False])
def test_heldout_images_in_the_unlabeled_part(runner, scenes, val, part, built):
    shutil.copy(scenes.root / 'unlabeled/u4.png', scenes.root / 'val/images/v1.png')
    runner._val_dataloader = None
    loader = DataLoader(DATASETS.build(val)) if built else dict(dataset=val)
    setattr(runner, part, loader)
    with pytest.raises(DataError, match=r'1 of 7 images are validation or test .*u4.png'):
        check(runner)


def test_heldout_images_of_a_built_loop(runner, scenes, val):
    shutil.copy(scenes.root / 'unlabeled/u4.png', scenes.root / 'val/images/v1.png')
    runner._val_loop = SimpleNamespace(dataloader=DataLoader(DATASETS.build(val)))
    with pytest.raises(DataError, match='u4.png'):
        check(runner)


@pytest.mark.parametrize('semi', [True, False])
def test_heldout_images_in_the_labeled_part(runner, scenes, semi, warnings_logged):
    for name in ('images/l2.png', 'masks/l2.png'):
        held = {'images/l2.png': 'val/images/v1.png', 'masks/l2.png': 'val/masks/v1.png'}[name]
        shutil.copy(scenes.root / name, scenes.root / held)
    if not semi:
        runner.train_dataloader = DataLoader(runner.train_dataloader.dataset.labeled)
    with pytest.raises(DataError, match=r'labeled: 1 of 5 images are validation .*l2\.png \(= '):
        check(runner)
    assert warnings_logged == []
    HOOKS.build(dict(type='DataCheckHook', on_overlap='warn')).before_train(runner)
    assert len(warnings_logged) == 1
    assert warnings_logged[0].startswith('labeled: 1 of 5 images are validation or test images')
    with pytest.raises(
        ValueError, match=r"on_overlap must be one of \('raise', 'warn'\), got 'skip'"
    ):
        HOOKS.build(dict(type='DataCheckHook', on_overlap='skip'))


def test_labeled_images_in_the_unlabeled_part(runner, scenes, warnings_logged):
    shutil.copy(scenes.root / 'images/l2.png', scenes.root / 'unlabeled/u0.png')
    check(runner)
    assert len(warnings_logged) == 1
    assert warnings_logged[0].startswith('1 images of the unlabeled part are labeled images too')


def test_heldout_data_that_can_not_be_built_are_a_warning(runner, val, warnings_logged):
    runner._test_dataloader = dict(dataset={**val, 'ann_file': 'gone.txt'})
    check(runner)
    assert len(warnings_logged) == 1
    assert 'test_dataloader.dataset can not be built' in warnings_logged[0]


@pytest.mark.parametrize(
    ('model', 'key'),
    [
        (model_of(4), 'model.segmentor.decode_head.num_classes'),
        (model_of(3, auxiliary=4), 'model.segmentor.auxiliary_head.num_classes'),
        (model_of(4, cascade=True), r'model.segmentor.decode_head\[1\].num_classes'),
        (model_of(4, wrapped=False), 'model.decode_head.num_classes'),
        (nn.DataParallel(model_of(4)), 'model.segmentor.decode_head.num_classes'),
    ],
)
def test_classes_of_the_labeled_part_and_the_heads(runner, model, key):
    runner.model = model
    message = rf'^{key} is 4, but train_dataloader.dataset.labeled.metainfo.classes has 3 names'
    with pytest.raises(ValueError, match=message):
        check(runner)


def test_classes_of_the_validation_data(runner, val):
    val = {**val, 'metainfo': dict(classes=('a', 'b'))}
    runner._val_dataloader = dict(dataset=val)
    with pytest.raises(
        ValueError, match=r'is 3, but val_dataloader.dataset.metainfo.classes has 2'
    ):
        check(runner)


@pytest.mark.parametrize('part', ['val', 'test'])
def test_the_same_classes_in_another_order_are_refused(runner, val, part):
    classes = DATASETS.build(val).metainfo['classes']
    swapped = {**val, 'metainfo': dict(classes=(classes[0], classes[2], classes[1]))}
    runner._val_dataloader = None
    setattr(runner, f'_{part}_dataloader', dict(dataset=swapped))
    message = (
        rf'labeled\.metainfo are not those of {part}_dataloader\.dataset\.metainfo: class 1 is '
        rf"'{classes[1]}' in the first and '{classes[2]}' in the second"
    )
    with pytest.raises(ValueError, match=message):
        check(runner)


def test_plain_supervised_training(runner, scenes, monkeypatch):
    texts = []
    monkeypatch.setattr(module, 'print_log', lambda text, **_: texts.append(text))
    runner.train_dataloader = DataLoader(DATASETS.build(scenes.labeled()))
    check(runner)
    assert texts == []
    assert runner.train_dataloader.dataset.pipeline.transforms[2].num_classes == 3
    runner.model = model_of(4)
    with pytest.raises(ValueError, match='but train_dataloader.dataset.metainfo.classes has 3'):
        check(runner)


def test_check_annotations_of_val_and_test_learn_the_classes(runner, val):
    hook = HOOKS.build(dict(type='DataCheckHook'))
    for stage in ('val', 'test'):
        loader = DataLoader(DATASETS.build(val))
        setattr(runner, f'{stage}_dataloader', loader)
        transform = loader.dataset.pipeline.transforms[2]
        assert transform.num_classes is None
        getattr(hook, f'before_{stage}')(runner)
        assert transform.num_classes == 3


def test_validation_data_that_would_fail_later_are_refused(runner, scenes, val):
    (scenes.root / 'val/masks/v1.png').unlink()
    with pytest.raises(ValueError, match=r'val_dataloader\.dataset: 1 of 2 .*no mask: .*v1\.png'):
        check(runner)


def test_broken_validation_images_are_named(runner, scenes, val):
    path = scenes.root / 'val/images/v0.png'
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r'1 of 2 images can not be read: .*v0\.png .*too early'):
        check(runner)


def test_broken_files_of_all_parts_are_named_in_one_error(runner, scenes):
    for name in ('images/l0.png', 'unlabeled/u1.png', 'val/masks/v1.png'):
        (scenes.root / name).write_bytes(b'')
    with pytest.raises(DataError) as error:
        check(runner)
    labeled, unlabeled, val = str(error.value).splitlines()
    assert labeled.startswith('train_dataloader.dataset.labeled: 1 of 5 images can not be read: ')
    assert unlabeled.startswith('train_dataloader.dataset.unlabeled: 1 of 7 images can not be read')
    assert val.startswith('val_dataloader.dataset: 1 of 2 masks can not be read: ')


def test_unreadable_images_that_are_left_out_are_counted(runner, scenes, warnings_logged):
    (scenes.root / 'unlabeled/u1.png').write_bytes(b'')
    runner.train_dataloader.dataset.on_error = 'skip'
    check(runner)
    assert len(warnings_logged) == 1
    assert 'unlabeled: 1 of 7 images can not be read' in warnings_logged[0]


@pytest.mark.parametrize(('content', 'error'), [(255, None), (77, DataError)])
def test_masks_of_a_test_are_looked_at(runner, scenes, val, warnings_logged, content, error):
    for i in range(2):
        scenes.mask(f'val/masks/v{i}.png', [[content] * 40] * 32)
    runner.test_dataloader = DataLoader(DATASETS.build(val))
    hook = HOOKS.build(dict(type='DataCheckHook'))
    if error:
        with pytest.raises(error, match='2 of 2 masks have values that are no class'):
            hook.before_test(runner)
    else:
        hook.before_test(runner)
        assert len(warnings_logged) == 1
        assert 'every score will be nan: they hold 255: 2560 pixels' in warnings_logged[0]


def refuse_on_rank_0(rank):
    """What a rank gets of an error that the main rank alone has found."""

    def look():
        assert rank == 0
        raise DataError('broken.png')

    try:
        module.on_main_rank(look)
    except DataError as error:
        return str(error)
    return ''


def test_all_ranks_stop_for_what_the_main_rank_has_found(on_two_ranks):
    assert on_two_ranks(refuse_on_rank_0) == ['broken.png', 'broken.png']


def test_missing_masks_of_plain_training_data_are_refused(runner, scenes):
    runner.train_dataloader = DataLoader(runner.train_dataloader.dataset.labeled)
    scenes_mask = next(iter(sorted((scenes.root / 'masks').glob('*.png'))))
    scenes_mask.unlink()
    with pytest.raises(ValueError, match=r'train_dataloader\.dataset: 1 of 5 .*no mask'):
        check(runner)


def test_a_forgotten_collate_function_is_named(runner):
    from mmengine.dataset import pseudo_collate

    loader = runner.train_dataloader
    runner.train_dataloader = DataLoader(
        loader.dataset, 4, sampler=loader.sampler, collate_fn=pseudo_collate
    )
    with pytest.raises(ValueError, match="pseudo_collate.*type='semi_collate'"):
        check(runner)


# ------------------------------------------------------------------- classes of a checkpoint
TRAINED = ('background', 'leaf', 'disease')


def load(classes, given, loop='test', resume=False, model=None, state=None):
    """Load a checkpoint of some classes for data of other ones."""
    model = nn.Linear(1, 1) if model is None else model
    kinds = dict(train=IterBasedTrainLoop, val=loops.ValLoop, test=loops.TestLoop)
    built = BaseLoop.__new__(kinds[loop])
    built.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=given)))
    built_loops = {f'_{name}_loop': built if name == loop else None for name in kinds}
    runner = SimpleNamespace(model=model, _resume=resume, **built_loops)
    meta = {} if classes is None else dict(meta=dict(dataset_meta=dict(classes=classes)))
    checkpoint = dict(state_dict=model.state_dict() if state is None else state, **meta)
    HOOKS.build(dict(type='DataCheckHook')).after_load_checkpoint(runner, checkpoint)


@pytest.mark.parametrize(
    ('given', 'difference'),
    [
        (('background', 'disease', 'leaf'), "class 1 is 'leaf' in the first and 'disease' in"),
        (('background', 'leaf'), "class 2 is 'disease' in the first and missing in the second"),
        ((*TRAINED, 'soil'), "class 3 is missing in the first and 'soil' in the second"),
    ],
)
@pytest.mark.parametrize(('loop', 'resume'), [('test', False), ('val', False), ('train', True)])
def test_a_checkpoint_of_other_classes_is_refused(loop, resume, given, difference):
    with pytest.raises(CheckpointError) as caught:
        load(TRAINED, given, loop, resume)
    assert f'not those of {loop}_dataloader.dataset.metainfo: {difference}' in str(caught.value)


def test_training_may_begin_with_a_checkpoint_of_other_classes(warnings_logged):
    load(TRAINED, ('background', 'disease', 'leaf'), 'train')
    assert len(warnings_logged) == 1
    assert "class 1 is 'leaf' in the first and 'disease' in the second" in warnings_logged[0]


class Net(nn.Module):
    """Has a memory and a bank of images beside a layer."""

    def __init__(self, classes, size, images):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        sizes = dict(num_classes=classes, channels=2, size=size, num_push=2)
        self.bank, self.queues = FeatureMemoryBank(**sizes), NegativeQueues(**sizes)
        self.mixer = ClassAwareCutMix()
        self.mixer.register_buffer('bank', torch.ones(images, classes, dtype=torch.uint8))


@pytest.mark.parametrize(
    ('size', 'classes', 'left_out'),
    [(4, 3, ()), (5, 3, ('bank', 'queues')), (4, 2, ('bank', 'queues', 'mixer'))],
)
def test_a_run_that_begins_with_weights_has_memories_of_its_own(
    size, classes, left_out, warnings_logged
):
    old, new = Net(classes, size, 7), Net(3, 4, 5)
    for one in (old.bank, old.queues):
        one.features.data.fill_(2.0)
    state = old.state_dict()
    load(TRAINED, TRAINED, 'train', model=new, state=state)
    assert [text.split()[0] for text in warnings_logged] == [f'model.{one}' for one in left_out]
    new.load_state_dict(state, strict=False)
    assert torch.equal(new.layer.weight, old.layer.weight)
    for name in ('bank', 'queues'):
        filled = (getattr(new, name).features == 2).all()
        assert filled == (name not in left_out)
    kept = old.state_dict()
    load(TRAINED, TRAINED, 'train', resume=True, model=new, state=kept)
    assert kept.keys() == old.state_dict().keys(), 'a resumed run goes on with what it has'


@pytest.mark.parametrize('loop', ['test', 'val', 'train'])
def test_the_same_classes_pass_and_unknown_ones(loop, warnings_logged):
    for classes in (list(TRAINED), ('Background', 'LEAF', 'disease'), None):
        load(classes, TRAINED, loop, resume=True)
        load(TRAINED, classes, loop, resume=True)
        load(classes, TRAINED, loop)
    assert warnings_logged == []


@pytest.mark.parametrize('tool', ['test', 'resume'])
def test_the_tools_refuse_a_checkpoint_of_other_classes(tool, server, unimatch_run, tmp_path):
    part = 'train_dataloader.dataset.labeled' if tool == 'resume' else 'test_dataloader.dataset'
    names = '[background,one,zero,two,three,four]'
    options = ['--cfg-options', f'{part}.metainfo.classes={names}', '--work-dir', tmp_path]
    if tool == 'test':
        command = [TOOLS / 'test.py', unimatch_run.config, unimatch_run.checkpoint]
    else:
        resumed = unimatch_run.work_dir / 'iter_6.pth'
        command = [TOOLS / 'train.py', unimatch_run.config, '--resume', resumed]
    output = server.run(*command, *options, code=1).output
    assert 'error: the classes of the checkpoint are not those of' in output
    assert "class 1 is 'zero' in the first and 'one' in the second" in output


def test_a_start_warns_of_what_may_not_be_meant(runner, scenes, warnings_logged):
    import cv2

    path = str(scenes.root / 'images/l1.png')
    cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_GRAYSCALE))
    check(runner)
    (text,) = [one for one in warnings_logged if 'different channels' in one]
    assert f'1 gray ({path})' in text
    assert sum('has 5 images, fewer than' in one for one in warnings_logged) == 0
    runner.train_dataloader.sampler.set_batch_size(12)
    check(runner)
    assert sum('labeled has 5 images, fewer than the 6' in one for one in warnings_logged) == 1
