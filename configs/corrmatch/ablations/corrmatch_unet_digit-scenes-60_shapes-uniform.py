# Shapes from a regular grid.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(regions=dict(strategy='uniform')))
