_base_ = '../weighting_unimatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(weight=dict(k=1)))
