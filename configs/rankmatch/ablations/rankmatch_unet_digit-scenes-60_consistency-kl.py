# The correlations themselves are compared.
_base_ = '../rankmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(rank=dict(consistency='kl')))
