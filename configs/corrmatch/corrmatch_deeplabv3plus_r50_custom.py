_base_ = ['../_base_/settings/deeplabv3plus_r50_custom.py', '../_base_/methods/corrmatch.py']
# An EMA teacher labels, which few labels ask for; teacher=None for the student, as in the paper.
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    teacher=dict(type='EMATeacher', momentum=0.996),
    warmup_iters=2000,
    **_base_.method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
