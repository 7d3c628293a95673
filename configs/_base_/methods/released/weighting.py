# Weighting Pseudo-Labels on UniMatch as its released program trains it (VOC; on Cityscapes
# threshold 0 and OHEM): weights 1 + s/k, divided by those of all valid pixels, on its balance
# 1/2 (L_x + 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp). Not built: partners that are the image itself.
# A config on it adds the boxes to the unlabeled part.
strong = dict(num_views=2)
drop = dict(type='FeatureDropout', prob=0.5)
method = dict(
    type='SemiSegmentor',
    # Clean and dropped features of labeled and weak images are decoded in one pass; partners are
    # labeled in evaluation mode before it.
    streams=dict(
        labeled=dict(images='labeled', group='clean'),
        weak=dict(images='weak', group='clean'),
        labeled_perturbed=dict(features='labeled', perturbation=drop, group='clean'),
        perturbed=dict(features='weak', perturbation=drop, group='clean'),
        partners=dict(images='weak', mode='eval'),
        strong=dict(images='strong', views=2),
    ),
    supervised_weight=0.5,
    refiners=dict(
        select=dict(type='ConfidenceThreshold', threshold=0.95),
        agreement=dict(type='DetectionAgreement', min_confidence=0.95),
        weight=dict(
            type='RankStatisticsWeight',
            k=5,
            base_weight=1.0,
            upsample=True,
            after_mixing=True,
            bank=dict(
                size=256,
                num_push=None,
                min_confidence=0.95,
                shared=False,
                reliable_from='strong',
                push='before',
            ),
        ),
    ),
    mixer=dict(
        type='CutMix',
        prob=0.5,
        area=(0.02, 0.4),
        aspect=(0.3, 1 / 0.3),
        draw='rejection',
        same_partner=True,
        partner_stream='partners',
    ),
    losses=dict(
        strong=dict(
            type='PseudoLabelCrossEntropy',
            stream='strong',
            loss_weight=0.25,
            denominator='valid_weight',
        ),
        perturbed=dict(
            type='PseudoLabelCrossEntropy',
            stream='perturbed',
            loss_weight=0.25,
            denominator='valid_weight',
        ),
    ),
)
del drop
