# The score is the negative entropy.
_base_ = '../s4mc_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(score='entropy')))
