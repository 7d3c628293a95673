# Region propagation alone: the correlation learns from the labeled images only.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(correlation=dict(unlabeled_weight=0.0)))
