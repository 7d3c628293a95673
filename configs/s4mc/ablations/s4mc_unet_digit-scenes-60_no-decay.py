# The share that is left out stays.
_base_ = '../s4mc_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(decay=False)))
