_base_ = ['../_base_/settings/unet_custom.py', '../_base_/methods/custom/corrmatch.py']
# The backbone is a UNet: its map at stride 8 stands for an encoder's last map.
_base_.method.heads.correlation.update(tap='backbone.decoder.2', in_channels=96, hidden_channels=96)
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    channels_last=True,
    **_base_.method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
