# UniMatch on VOC, crop 513.
_base_ = ['../settings/voc12_513-d16.py', '../methods/unimatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
