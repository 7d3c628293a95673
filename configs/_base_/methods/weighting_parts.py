# What Weighting Pseudo-Labels (ECCV 2024) adds to a framework with one strong view, with the
# paper's constants: weights s/k. The paper gives an alpha for UniMatch alone, so the framework's
# own weight of L_u stays. A config on it adds the boxes to the unlabeled part.
parts = dict(
    refiners=dict(
        agreement=dict(type='DetectionAgreement', min_confidence=0.95),
        weight=dict(type='RankStatisticsWeight', k=5),
    ),
)
boxes = dict(type='LoadDetections', results='', images='')
