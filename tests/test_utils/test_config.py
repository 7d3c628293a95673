import pytest
from tool_runs import CONFIGS, UNIMATCH

from mmseg_semi.apis.runner_setup import check_data_paths
from mmseg_semi.utils.config import load_config

DATASET = 'train_dataloader.dataset'


@pytest.mark.parametrize(
    'option, value, error, message',
    [
        ('train_dataloader.sampler.ratios', 1, TypeError, "sampler: .*'ratios'.*'ratio'"),
        (f'{DATASET}.onerror', 'skip', TypeError, f"{DATASET}: .*'onerror'.*'on_error'"),
        (f'{DATASET}.unlabeled.img_sufix', '', TypeError, "unlabeled: .*'img_sufix'.*'img_suffix'"),
        (f'{DATASET}.labeled.img_sufix', '', TypeError, "labeled: BaseSegDataset .*'img_suffix'"),
        (f'{DATASET}.unlabeled.pipeline.1.a', 1, TypeError, r"pipeline\[1\]: InitValidMask .*'a'"),
        (
            f'{DATASET}.unlabeled.pipeline.4.transforms.0.prop',
            1,
            TypeError,
            r"pipeline\[4\]\.transforms\[0\]: RandomColorJitter .*'prop'.*'prob'",
        ),
        ('train_cfg.max_iter', 3, TypeError, "train_cfg: SemiTrainLoop .*'max_iters'"),
        ('default_hooks.checkpoint.type', 'AtomicHook', KeyError, 'default_hooks.checkpoint.type'),
        ('train_dataloader.sampler.type', 'SemSampler', KeyError, "'SemSampler'.*'SemiSampler'"),
        ('train_dataloader.collate_fn.type', 'semi_colate', KeyError, "'semi_collate'"),
        ('model.type', 'SemiSegmenter', KeyError, "model.type.*'SemiSegmentor'"),
        ('model.segmentor.backbone.type', 'UNett', KeyError, "backbone.type: 'UNett'.*'UNet'"),
        ('val_evaluator.type', 'IouMetric', KeyError, "val_evaluator.type.*'IoUMetric'"),
    ],
)
def test_misspelt_types_and_arguments_are_named_with_key_and_suggestion(
    option, value, error, message
):
    with pytest.raises(error, match=message):
        load_config(str(CONFIGS / UNIMATCH), {option: value})


def test_hook_priorities_and_scopes_are_no_arguments():
    hooks = [dict(type='DataCheckHook', priority='LOW'), dict(type='mmengine.EMAHook')]
    assert load_config(str(CONFIGS / UNIMATCH), dict(custom_hooks=hooks)).custom_hooks


def test_workers_and_persistence_fit():
    path = str(CONFIGS / 'unimatch/unimatch_unet_custom.py')
    assert load_config(path).train_dataloader.persistent_workers is True
    cfg = load_config(path, {'train_dataloader.num_workers': 0})
    assert cfg.train_dataloader.persistent_workers is False


def test_paths_of_validation_data_are_checked(digit_root):
    root = {'val_dataloader.dataset.data_root': str(digit_root)}
    check_data_paths(load_config(str(CONFIGS / UNIMATCH), root), ('val',))
    wrong = {**root, 'val_dataloader.dataset.ann_file': 'splits/nope.txt'}
    with pytest.raises(FileNotFoundError, match=r'val_dataloader\.dataset\.ann_file.*nope\.txt'):
        check_data_paths(load_config(str(CONFIGS / UNIMATCH), wrong), ('val',))
