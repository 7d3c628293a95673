_base_ = ['../_base_/settings/unet_custom.py', '../_base_/methods/rankmatch.py']
method = _base_.method
# The UNet has no ASPP: its map at stride 8 takes that place.
# The mean over the permutations, as in the program: their sum, 24 times larger, is most of what a
# network learns from few labels (docs/results.md).
method.heads.rank.update(tap='backbone.decoder.2', reduction='mean')
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
