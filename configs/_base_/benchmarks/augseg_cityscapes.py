# AugSeg on Cityscapes.
_base_ = ['../settings/cityscapes_801-d8.py', '../methods/augseg.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
