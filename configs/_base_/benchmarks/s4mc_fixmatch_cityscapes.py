# S4MC on FixMatch, Cityscapes.
_base_ = ['../settings/cityscapes_769-d8_2+2.py', '../methods/s4mc_fixmatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
