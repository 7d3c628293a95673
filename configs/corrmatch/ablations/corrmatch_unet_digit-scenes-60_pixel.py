# Pixel propagation alone.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(regions=None))
