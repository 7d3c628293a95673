# Correlation of the classifier's output (half resolution).
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(correlation=dict(tap='classifier', in_channels=None)))
