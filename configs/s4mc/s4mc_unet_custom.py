_base_ = ['../_base_/settings/unet_custom.py', '../_base_/methods/custom/s4mc.py']
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    channels_last=True,
    **_base_.method,
)
