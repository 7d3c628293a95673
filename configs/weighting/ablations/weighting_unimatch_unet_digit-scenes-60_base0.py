# Weights s/k, mean over all valid pixels, with UniMatch's balance of the losses.
_base_ = '../weighting_unimatch_unet_digit-scenes-60.py'
model = dict(
    refiners=dict(weight=dict(base_weight=0.0)),
    losses=dict(strong=dict(denominator='valid'), perturbed=dict(denominator='valid')),
)
