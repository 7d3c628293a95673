# AEL (NeurIPS 2021): an EMA teacher; classes that are badly learned are pasted from other labeled
# images, boxed for CutMix, and the loss leaves fewer of their pixels out. The teacher labels the
# labeled images too. Thresholds and shares are those of VOC.
loss = dict(
    type='PseudoLabelCrossEntropy',
    loss_weight=1.0,
    equalize='class_confidence',
    equalize_by='prediction',
    gamma=2.0,
    denominator='valid_weight',
)
method = dict(
    type='SemiSegmentor',
    teacher=dict(type='EMATeacher', momentum=0.99),
    supervised_weight=1.0,
    heads=dict(class_confidence=dict(type='ClassConfidence', momentum=0.999)),
    labeled_mixer=dict(
        type='CopyPaste',
        num_classes=3,
        prob=0.5,
        draw='batch',
        source='dataset',
        scale=(0.1, 2.0),
    ),
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.7)),
    mixer=dict(type='ClassAwareCutMix', prob=1.0, min_component=0.03, min_share=0.03),
    losses=dict(labeled=dict(loss, stream='labeled'), strong=dict(loss, stream='strong')),
)
del loss
