# Weighting on U2PL, VOC, with the paper's constants: weights s/k, L = L_s + 0.4 L_u.
_base_ = './u2pl_voc12.py'
model = dict(
    refiners=dict(
        agreement=dict(type='DetectionAgreement', min_confidence=0.95),
        weight=dict(type='RankStatisticsWeight', k=5),
    ),
    losses=dict(strong=dict(loss_weight=0.4)),
)
# The leaf config says which boxes.
unlabeled_pipeline = _base_.unlabeled_pipeline
boxes = dict(type='LoadDetections', results='', images='', score_thr=0.85)
unlabeled_pipeline.insert(2, boxes)
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
