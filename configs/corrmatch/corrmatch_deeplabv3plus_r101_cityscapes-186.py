# The paper's constants for Cityscapes: every pixel is selected (threshold 0, fixed), so that shapes
# take the class that is most frequent in them, and OHEM trains the labeled images.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/models/deeplabv3plus_r101_cityscapes.py',
    '../_base_/schedules/sgd_cityscapes_240e.py',
    '../_base_/methods/corrmatch.py',
]
method = _base_.method
method.refiners.select = dict(type='ConfidenceThreshold', threshold=0.0)
model = dict(_delete_=True, segmentor=_base_.model, **method)
# CorrMatch has one strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
