# Correlation of the backbone's last map (half resolution).
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(correlation=dict(tap='encoder', in_channels=None)))
