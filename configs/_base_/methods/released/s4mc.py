# S4MC on CutMix-Seg, the released program without its errors; ../s4mc.py is the paper, and
# docs/methods/s4mc.md lists what differs. The first epoch on VOC trains on
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
        # The student sees labeled and mixed images in one pass, and so does the teacher after it.
        strong=dict(group='clean'),
        teacher_labeled=dict(images='labeled', network='teacher', mode='train', group='teacher'),
        teacher_strong=dict(images='strong', network='teacher', mode='train', group='teacher'),
    ),
    mixer=dict(
        type='CutMix', prob=0.5, area=(0.5, 0.5), draw='width', coin='batch', partner='next'
    ),
    refiners=dict(
        # Labels are those of the weak images; the refinement only selects.
        context=dict(
            type='NeighborhoodRefiner',
            window=3,
            neighbors=1,
            criterion='max',
            connectivity=4,
            beta=0.6065306597126334,  # exp(-1/2)
            # The program has a table: the share of each class's neighbors that are of it too, 0.956
            # to 0.998 on VOC, 0.83 to 0.997 on Cityscapes. This is one number in its place; the
            # table of your labels is the entry `conditional` of neighbor_agreement.py's file
            # (joint='FILE.json', joint_key='conditional').
            joint=0.98,
            joint_scale='probability',
            label='raw',
        ),
        select=dict(
            type='QuantileThreshold',
            score='margin',
            alpha=0.4,
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
    test_cfg=dict(predict_with='teacher'),
)
