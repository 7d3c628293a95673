# PrevMatch on VOC, crop 321.
_base_ = ['../settings/voc12_321-d16.py', '../methods/prevmatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
