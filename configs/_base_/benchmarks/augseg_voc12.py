# AugSeg on VOC.
_base_ = ['../settings/voc12_513-d8.py', '../methods/augseg.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
