# Correlation of the decoder's output (half resolution).
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(correlation=dict(tap='penultimate', in_channels=None)))
