# U2PL on CutMix-Seg: 2 labeled and 2 unlabeled images a batch on one GPU.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cityscapes_769.py',
    '../_base_/models/deeplabv3plus_r101_cityscapes_769.py',
    '../_base_/schedules/sgd_cityscapes_240e.py',
    '../_base_/methods/u2pl.py',
]
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    # One pass over the 2789 unlabeled images with this batch on one GPU.
    warmup_iters=1395,
    **_base_.method,
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='MeanTeacherHook', momentum=0.99, buffers='ema'),
    dict(type='MemoryBankHook'),
]
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-4))
auto_scale_lr = dict(base_batch_size=4)
# One strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(batch_size=4, dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
