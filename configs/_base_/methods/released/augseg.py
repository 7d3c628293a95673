# AugSeg as its released program trains it (VOC; on Cityscapes momentum 0.996 and threshold 0).
# Not built: a permutation with fixed points, by which an image may be mixed with itself.
strong = dict(
    num_views=1, transforms=dict(_delete_=True, intensity=dict(type='RandomIntensityAugment'))
)
method = dict(
    type='SemiSegmentor',
    teacher=dict(type='EMATeacher', momentum=0.999, buffers='ema', mode='eval'),
    # The student sees labeled and mixed images together, and no weak ones.
    streams=dict(
        labeled=dict(images='labeled', group='joint'),
        strong=dict(images='strong', group='joint'),
        weak=None,
    ),
    supervised_weight=1.0,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.95)),
    mixer=dict(
        type='AdaptiveCutMix',
        prob=1.0,
        labeled_beta=(8.0, 2.0),
        unlabeled_beta=(4.0, 4.0),
        paste='partner',
        boxes='clipped',
    ),
    losses=dict(
        strong=dict(
            type='PseudoLabelCrossEntropy', stream='strong', loss_weight=1.0, denominator='all'
        )
    ),
)
