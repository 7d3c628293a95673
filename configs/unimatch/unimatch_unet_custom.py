_base_ = ['../_base_/settings/unet_custom.py', '../_base_/methods/unimatch.py']
# An EMA teacher labels, which few labels ask for; teacher=None for the student, as in the paper.
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    teacher=dict(type='EMATeacher', momentum=0.996),
    warmup_iters=2000,
    channels_last=True,
    **_base_.method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
