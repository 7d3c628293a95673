# The threshold follows the mean confidence of all pixels.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(update='per_pixel')))
