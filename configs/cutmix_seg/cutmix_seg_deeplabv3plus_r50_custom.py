_base_ = [
    '../_base_/settings/deeplabv3plus_r50_custom.py',
    '../_base_/methods/custom/cutmix_seg.py',
]
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    **_base_.method,
)
