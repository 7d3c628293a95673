# AugSeg (CVPR 2023): an EMA teacher of momentum 0.999, one strong view by one to three random
# intensity operations, and CutMix that pastes labeled boxes onto unsure images. The student sees
# labeled and mixed images in one pass, for its BatchNorm.
strong = dict(
    num_views=1, transforms=dict(_delete_=True, intensity=dict(type='RandomIntensityAugment'))
)
method = dict(
    type='SemiSegmentor',
    teacher=dict(type='EMATeacher', momentum=0.999),
    streams=dict(labeled=dict(group='joint'), strong=dict(group='joint')),
    supervised_weight=1.0,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.95)),
    mixer=dict(type='AdaptiveCutMix'),
    losses=dict(strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=1.0)),
)
