# SemiVL on Cityscapes: every pixel is selected, and an image counts as much as its label is sure.
_base_ = ['../settings/cityscapes_800-clip.py', '../methods/semivl.py']
method = _base_.method
method.refiners.select.threshold = 0.0
method.losses.strong.scale = method.losses.perturbed.scale = 'mean_confidence'
model = dict(_delete_=True, segmentor=_base_.model, **method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
