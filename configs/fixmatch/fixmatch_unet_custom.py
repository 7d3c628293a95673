_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/custom.py',
    '../_base_/models/unet_small.py',
    '../_base_/schedules/adamw_20k.py',
    '../_base_/methods/fixmatch.py',
]
model = dict(_delete_=True, segmentor=_base_.model, channels_last=True, **_base_.method)
