# The perturbed features are decoded in a pass of their own.
_base_ = '../unimatch_unet_digit-scenes-60.py'
model = dict(streams=dict(labeled_perturbed=None, perturbed=dict(group='perturbed')))
