_base_ = ['../_base_/settings/efficientnet-lite0_custom.py', '../_base_/methods/custom/u2pl.py']
# A head and a bank as small as the network.
_base_.method.heads.contrast.update(
    hidden_channels=64, channels=64, bank=dict(size=4096, first_size=8192)
)
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    **_base_.method,
)
