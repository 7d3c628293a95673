# 20% of the pixels are left out at the start.
_base_ = '../s4mc_unet_digit-scenes-60.py'
model = dict(refiners=dict(select=dict(alpha=0.2)))
