# The losses use pixels that a box of their class covers, and the background.
_base_ = '../weighting_unimatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(agreement=dict(restrict=True, exempt=(0,))))
