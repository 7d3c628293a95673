_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/voc12_513.py',
    '../_base_/models/deeplabv3plus_r101_voc12_513.py',
    '../_base_/schedules/sgd_voc12_80e.py',
    '../_base_/methods/augseg.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='MeanTeacherHook', momentum=0.999, buffers='ema'),
]
# One strong view of one to three random intensity operations.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2].update(num_views=1, transforms=[dict(type='RandomIntensityAugment')])
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
