# CorrMatch (CVPR 2024) on UniMatch with one strong view.
# L = 1/2 (L_s + L_u), L_s = 1/2 (L_s^h + L_s^c), L_u = 1/2 L_u^h + 1/4 L_u^s + 1/4 L_u^c, and
# L_u^h is the mean of the strong view and of the feature-perturbed stream.
# Regions are propagated in the mixed strong view (the paper does not speak of mixing), so the
# weak view's own losses train with its plain labels.
# A backbone whose last map is finer than stride 8 wants another tap of the head.
_base_ = './unimatch.py'
strong = dict(num_views=1)
method = dict(
    supervised_weight=0.25,
    streams=dict(strong=dict(views=1)),
    refiners=dict(
        select=dict(_delete_=True, type='EMAThreshold', initial=0.85, momentum=0.999),
        regions=dict(
            type='RegionPropagation', num_shapes=128, strategy='random', after_mixing=True
        ),
    ),
    losses=dict(
        strong=dict(loss_weight=0.125),
        perturbed=dict(loss_weight=0.125),
        soft=dict(type='SoftConsistencyLoss', kind='kl', loss_weight=0.125),
    ),
    heads=dict(
        correlation=dict(
            type='CorrelationHead',
            tap='encoder',
            labeled_weight=0.25,
            unlabeled_weight=0.125,
        )
    ),
)
