# The square root of the channels divides outside the softmax, as the paper prints it.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(correlation=dict(scale='outside')))
