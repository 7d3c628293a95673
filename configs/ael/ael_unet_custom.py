_base_ = ['../_base_/settings/unet_custom.py', '../_base_/methods/ael.py']
method = _base_.method
# Images are resized from one scale here, not from their own size: pasted ones like all others.
method.labeled_mixer.scale = None
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    channels_last=True,
    **method,
)
