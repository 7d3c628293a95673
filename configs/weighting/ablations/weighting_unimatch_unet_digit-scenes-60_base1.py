# The authors' program: weights 1 + s/k, and the loss divided by their sum.
_base_ = '../weighting_unimatch_unet_digit-scenes-60.py'
model = dict(
    refiners=dict(weight=dict(base_weight=1.0)),
    losses=dict(strong=dict(denominator='weight'), perturbed=dict(denominator='weight')),
)
