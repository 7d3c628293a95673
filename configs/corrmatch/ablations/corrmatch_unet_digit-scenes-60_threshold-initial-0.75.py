# Initial threshold 0.75.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(initial=0.75)))
