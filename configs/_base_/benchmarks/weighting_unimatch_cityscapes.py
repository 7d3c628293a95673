# Weighting on UniMatch, Cityscapes, with the paper's constants: every pixel is selected.
_base_ = ['../settings/cityscapes_801-d16.py', '../methods/weighting.py']
method = _base_.method
method.refiners.select.threshold = 0.0
model = dict(_delete_=True, segmentor=_base_.model, **method)
# The leaf config says which boxes.
unlabeled_pipeline = _base_.unlabeled_pipeline
boxes = dict(type='LoadDetections', results='', images='', score_thr=0.95)
unlabeled_pipeline.insert(2, boxes)
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
