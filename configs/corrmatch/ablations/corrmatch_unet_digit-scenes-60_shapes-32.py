# 32 shapes an image.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(regions=dict(num_shapes=32)))
