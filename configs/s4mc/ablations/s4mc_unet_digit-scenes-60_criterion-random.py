# A neighbor drawn at random.
_base_ = '../s4mc_unet_digit-scenes-60.py'
model = dict(refiners=dict(context=dict(criterion='random')))
