# UniMatch (CVPR 2023): two strong views and a feature-perturbed stream.
# L = 1/2 (L_x + 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp); the strong loss is the mean of both views.
# Clean and dropped features share one pass of the decoder, the labeled images' too, so that its
# normalizations see both; only the weak images' dropped features are trained.
strong = dict(num_views=2)
drop = dict(type='FeatureDropout', prob=0.5)
method = dict(
    type='SemiSegmentor',
    supervised_weight=0.5,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.95)),
    mixer=dict(type='CutMix', prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), draw='rejection'),
    streams=dict(
        strong=dict(views=2),
        labeled_perturbed=dict(features='labeled', perturbation=drop, group='clean'),
        perturbed=dict(features='weak', perturbation=drop, group='clean'),
    ),
    losses=dict(
        strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=0.25),
        perturbed=dict(type='PseudoLabelCrossEntropy', stream='perturbed', loss_weight=0.25),
    ),
)
