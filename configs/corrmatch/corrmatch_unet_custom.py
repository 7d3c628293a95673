_base_ = ['../_base_/settings/unet_custom.py', '../_base_/methods/corrmatch.py']
method = _base_.method
# The backbone is a UNet: its map at stride 8 stands for an encoder's last map.
method.heads.correlation.update(tap='backbone.decoder.2', in_channels=96, hidden_channels=96)
# An EMA teacher labels, which few labels ask for; teacher=None for the student, as in the paper.
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    teacher=dict(type='EMATeacher', momentum=0.996),
    warmup_iters=2000,
    channels_last=True,
    **method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
