# Weights 1 + s/k, divided by those of all valid pixels.
_base_ = '../ael/ael_unet_digit-scenes-60.py'
model = dict(
    refiners=dict(
        agreement=dict(type='DetectionAgreement', min_confidence=0.95),
        weight=dict(type='RankStatisticsWeight', k=5, base_weight=1.0),
    ),
)
detections = f'{_base_.data_root}detection/labeled_60/'
boxes = dict(
    type='LoadDetections',
    results=f'{detections}unlabeled.bbox.json',
    images=f'{detections}unlabeled.json',
    score_thr=0.9,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=boxes)))
