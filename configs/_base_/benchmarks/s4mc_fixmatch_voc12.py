# S4MC on FixMatch, VOC.
_base_ = ['../settings/voc12_513-d8_3+3.py', '../methods/s4mc_fixmatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
