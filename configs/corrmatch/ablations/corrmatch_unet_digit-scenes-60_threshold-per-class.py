# One threshold for each class, as in FreeMatch.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(update='per_class')))
