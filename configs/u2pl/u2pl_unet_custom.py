_base_ = ['../_base_/settings/unet_custom.py', '../_base_/methods/custom/u2pl.py']
# A head and a bank as small as the network, whose classifier has 24 channels.
_base_.method.heads.contrast.update(
    hidden_channels=24, channels=64, bank=dict(size=4096, first_size=8192)
)
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    channels_last=True,
    **_base_.method,
)
