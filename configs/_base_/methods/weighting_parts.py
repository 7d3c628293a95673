# What Weighting Pseudo-Labels (ECCV 2024) adds to a framework with one strong view, with the
# paper's constants: weights s/k, L = L_s + 0.4 L_u. A config on it adds the boxes to
# the unlabeled part.
parts = dict(
    refiners=dict(
        agreement=dict(type='DetectionAgreement', min_confidence=0.95),
        weight=dict(type='RankStatisticsWeight', k=5),
    ),
    losses=dict(strong=dict(loss_weight=0.4)),
)
boxes = dict(type='LoadDetections', results='', images='')
