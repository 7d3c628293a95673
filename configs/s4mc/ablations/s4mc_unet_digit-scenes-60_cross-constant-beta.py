# 4 neighbors and a constant weight of exp(-1/2), as the authors' program has it.
_base_ = '../s4mc_unet_digit-scenes-60.py'
model = dict(refiners=dict(context=dict(connectivity=4, beta=0.6065306597126334)))
