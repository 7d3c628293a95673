# lambda = 0.2.
_base_ = '../rankmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(rank=dict(loss_weight=0.2)))
