# Weights alone: no detector, prototypes from labeled pixels.
_base_ = '../weighting_unimatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(agreement=None))
unlabeled_pipeline = [t for t in _base_.unlabeled_pipeline if t['type'] != 'LoadDetections']
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
