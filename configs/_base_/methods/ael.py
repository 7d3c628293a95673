# AEL (NeurIPS 2021): an EMA teacher; classes that are badly learned are pasted between labeled
# images, cut out for CutMix, and the loss leaves fewer of their pixels out.
method = dict(
    type='SemiSegmentor',
    teacher=dict(type='EMATeacher', momentum=0.99),
    supervised_weight=1.0,
    heads=dict(class_confidence=dict(type='ClassConfidence', momentum=0.999)),
    labeled_mixer=dict(type='CopyPaste', num_classes=3, prob=0.5),
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.7)),
    mixer=dict(type='ClassAwareCutMix', prob=0.5, max_area=0.5, min_pixels=50),
    losses=dict(
        strong=dict(
            type='PseudoLabelCrossEntropy',
            stream='strong',
            loss_weight=1.0,
            equalize='class_confidence',
            gamma=2.0,
            denominator='weight',
        )
    ),
)
