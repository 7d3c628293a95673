# PrevMatch on Cityscapes: every pixel is selected, and the labels of earlier weights count as much
# as they are sure of an image.
_base_ = ['../settings/cityscapes_801-d16.py', '../methods/prevmatch.py']
method = _base_.method
method.refiners.select.threshold = 0.0
method.heads.guidance.update(threshold=0.0, by_mean_confidence=True)
model = dict(_delete_=True, segmentor=_base_.model, **method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
