# U2PL, the released program without its errors; ../u2pl.py is the paper, and docs/methods/u2pl.md
# lists what differs. The first epoch on VOC trains on
# labeled images alone: model.warmup_epochs, which the base of the data set has.
# Strong views are the weak crops, unchanged.
strong = dict(num_views=1, transforms=None)
method = dict(
    type='SemiSegmentor',
    # In the first epoch with unlabeled images the teacher is a copy of the student; its BatchNorm
    # statistics are those of its own training-mode passes.
    teacher=dict(type='EMATeacher', momentum=0.99, buffers='own', copy_epochs=1),
    supervised_weight=1.0,
    streams=dict(
        # The student sees labeled and mixed images in one pass, and so does the teacher after it:
        # from that come the selection, and all that the contrast reads of the teacher.
        strong=dict(group='clean'),
        teacher_labeled=dict(images='labeled', network='teacher', mode='train', group='teacher'),
        teacher_strong=dict(images='strong', network='teacher', mode='train', group='teacher'),
    ),
    mixer=dict(
        type='CutMix', prob=0.5, area=(0.5, 0.5), draw='width', coin='batch', partner='next'
    ),
    refiners=dict(
        select=dict(
            type='QuantileThreshold',
            score='entropy',
            alpha=0.2,
            decay_by='epoch',
            stream='teacher_strong',
        ),
    ),
    losses=dict(
        strong=dict(
            type='PseudoLabelCrossEntropy',
            stream='strong',
            loss_weight=1.0,
            denominator='selected',
            scale='inverse_share',
        ),
    ),
    heads=dict(
        contrast=dict(
            type='ContrastHead',
            tap='fusion',
            hidden_channels=256,
            num_convs=2,
            channels=256,
            dropout2d=0.1,
            min_prob=0.3,
            alpha=0.2,
            decay_by='epoch',
            low_rank=3,
            high_rank=20,
            num_queries=256,
            num_negatives=50,
            temperature=0.5,
            # All negatives of an iteration enter the queues, before it draws from them.
            bank=dict(size=30000, first_size=50000, num_push=None, push='before'),
            divisor='present',
            loss_weight=1.0,
            stream='strong',
            teacher_stream='teacher_strong',
        ),
    ),
    test_cfg=dict(predict_with='teacher'),
)
