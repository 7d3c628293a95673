# UniMatch on Cityscapes: every pixel is selected.
_base_ = ['../settings/cityscapes_801-d16.py', '../methods/unimatch.py']
method = _base_.method
method.refiners.select.threshold = 0.0
model = dict(_delete_=True, segmentor=_base_.model, **method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
