# 5 agents are ranked at each pixel.
_base_ = '../rankmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(rank=dict(top=5)))
