# The paper's constants: weights s/k, L = L_s + 0.4 L_u.
_base_ = '../ael/ael_deeplabv3plus_r101_voc12-92.py'
model = dict(
    refiners=dict(
        agreement=dict(type='DetectionAgreement', min_confidence=0.95),
        weight=dict(type='RankStatisticsWeight', k=5),
    ),
    losses=dict(strong=dict(loss_weight=0.4)),
)
custom_hooks = [*_base_.custom_hooks, dict(type='MemoryBankHook')]
detections = f'{_base_.data_root}detection/92/'
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline.insert(
    2,
    dict(
        type='LoadDetections',
        results=f'{detections}unlabeled.bbox.json',
        images=f'{detections}unlabeled.json',
        score_thr=0.85,
    ),
)
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
