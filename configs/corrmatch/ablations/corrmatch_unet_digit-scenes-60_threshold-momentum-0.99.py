# Momentum 0.99 of the threshold.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(momentum=0.99)))
