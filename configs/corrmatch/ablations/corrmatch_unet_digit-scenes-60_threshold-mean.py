# The threshold follows the mean over classes of their mean confidence.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(update='mean')))
