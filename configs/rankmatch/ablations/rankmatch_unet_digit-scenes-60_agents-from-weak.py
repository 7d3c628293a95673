# The weak view's agents on both sides.
_base_ = '../rankmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(rank=dict(agents_from='weak')))
