# U2PL on CutMix-Seg: 3 labeled and 3 unlabeled images a batch on one GPU.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/voc12_513.py',
    '../_base_/models/deeplabv3plus_r101_voc12_513.py',
    '../_base_/schedules/sgd_voc12_80e.py',
    '../_base_/methods/u2pl.py',
]
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    # One pass over the 10490 unlabeled images with this batch on one GPU.
    warmup_iters=3497,
    **_base_.method,
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='MeanTeacherHook', momentum=0.99, buffers='ema'),
    dict(type='MemoryBankHook'),
]
auto_scale_lr = dict(base_batch_size=6)
# One strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(batch_size=6, dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
