# SemiVL on VOC, crop 512.
_base_ = ['../settings/voc12_512-clip.py', '../methods/semivl.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
