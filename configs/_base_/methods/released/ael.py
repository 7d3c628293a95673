# AEL as its released program trains it (VOC, with OHEM and an auxiliary head on labeled images).
# On Cityscapes: no threshold, num_classes=3, ignore_classes=(0, 1, 2, 8, 10), min_component=0.005,
# min_share=0.01. Not built: classes that are left out by their Cityscapes numbers on VOC, too, and
# the division of the losses by the number of GPUs, which DDP makes a second time.
# Strong views are the weak crops, unchanged.
strong = dict(num_views=1, transforms=None)
method = dict(
    type='SemiSegmentor',
    teacher=dict(type='EMATeacher', momentum=0.99, buffers='own', mode='train'),
    streams=dict(
        labeled=dict(images='labeled', group='labeled'),
        weak=None,
        strong=dict(images='strong', group='strong'),
    ),
    supervised_weight=1.0,
    heads=dict(
        class_confidence=dict(type='ClassConfidence', momentum=0.999, absent='zero', when='before')
    ),
    labeled_mixer=dict(
        type='CopyPaste',
        num_classes=1,
        prob=0.5,
        power=0.5,
        draw='batch',
        source='dataset',
        scale=(0.1, 2.0),
    ),
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.7)),
    mixer=dict(type='ClassAwareCutMix', prob=1.0, min_component=0.03, min_share=0.03),
    losses=dict(
        # The teacher labels the labeled images too, after copy-paste.
        labeled=dict(
            type='PseudoLabelCrossEntropy',
            stream='labeled',
            loss_weight=1.0,
            equalize='class_confidence',
            equalize_by='prediction',
            gamma=2.0,
            denominator='valid_weight',
        ),
        strong=dict(
            type='PseudoLabelCrossEntropy',
            stream='strong',
            loss_weight=1.0,
            equalize='class_confidence',
            equalize_by='prediction',
            gamma=2.0,
            denominator='valid_weight',
        ),
    ),
)
