# Weighting on UniMatch, Cityscapes, with the paper's constants: every pixel is selected.
_base_ = ['../settings/cityscapes_801-d16.py', '../methods/weighting.py']
method = _base_.method
method.refiners.select.threshold = 0.0
model = dict(_delete_=True, segmentor=_base_.model, **method)
# The leaf config says which boxes.
boxes = dict(type='LoadDetections', results='', images='', score_thr=0.95)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong, detections=boxes)))
