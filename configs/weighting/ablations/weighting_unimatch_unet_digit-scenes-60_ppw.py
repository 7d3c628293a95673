# Weights alone: no detector, prototypes from labeled pixels.
_base_ = '../weighting_unimatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(agreement=None))
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=None)))
