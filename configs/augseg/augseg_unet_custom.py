_base_ = ['../_base_/settings/unet_custom.py', '../_base_/methods/augseg.py']
method = _base_.method
# With AugSeg's 0.999 the teacher would follow a short run too late.
method.teacher.momentum = 0.996
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    channels_last=True,
    **method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
