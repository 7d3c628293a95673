# Crops of 769, with OHEM on the labeled images.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cityscapes_769.py',
    '../_base_/models/deeplabv3plus_r101_cityscapes_769.py',
    '../_base_/schedules/sgd_cityscapes_240e.py',
    '../_base_/methods/ael.py',
]
_base_.model.decode_head.sampler = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100000)
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='MeanTeacherHook', momentum=0.99, buffers='ema'),
    dict(type='ClassConfidenceHook'),
    dict(type='ImageBankHook'),
]
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-4))
# One strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
