# S4MC on FixMatch, COCO.
_base_ = ['../settings/coco_513-d16.py', '../methods/s4mc_fixmatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
