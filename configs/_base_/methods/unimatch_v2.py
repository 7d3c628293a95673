# UniMatch V2 (TPAMI 2025): an EMA teacher labels, and each of two strong views keeps the channels
# of the encoder's maps that the other one drops, in half of the images.
# L = 1/2 (L_x + 1/2 (L_s1 + L_s2)); the strong loss is the mean of both views. CutMix takes the
# batch in reversed order. With DINOv2 all maps drop the same channels (shared=True), with other
# encoders each its own.
strong = dict(num_views=2)
method = dict(
    type='SemiSegmentor',
    teacher=dict(type='EMATeacher', momentum=0.996, buffers='ema'),
    supervised_weight=0.5,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.95)),
    mixer=dict(
        type='CutMix',
        prob=0.5,
        area=(0.02, 0.4),
        aspect=(0.3, 1 / 0.3),
        draw='rejection',
        partner='reversed',
    ),
    streams=dict(
        strong=dict(
            views=2,
            perturbation=dict(type='FeatureDropout', prob=0.5, complementary=True, untouched=0.5),
        )
    ),
    losses=dict(strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=0.5)),
    test_cfg=dict(predict_with='teacher'),
)
