# The formula as printed: weights s/k, mean over all valid pixels, L = L_s + 0.4 L_u.
_base_ = '../weighting_unimatch_unet_digit-scenes-60.py'
model = dict(
    supervised_weight=1.0,
    refiners=dict(weight=dict(base_weight=0.0)),
    losses=dict(
        strong=dict(loss_weight=0.2, denominator='valid'),
        perturbed=dict(loss_weight=0.2, denominator='valid'),
    ),
)
