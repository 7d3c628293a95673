# The score is the largest probability.
_base_ = '../s4mc_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(score='max')))
