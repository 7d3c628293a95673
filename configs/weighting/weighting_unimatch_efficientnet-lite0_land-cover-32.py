_base_ = [
    '../_base_/settings/land_cover_efficientnet-lite0.py',
    '../_base_/methods/efficientnet-lite0/weighting.py',
]
# The decoder starts from scratch: it must know the classes a little before it teaches itself.
model = dict(_delete_=True, segmentor=_base_.model, warmup_iters=200, **_base_.method)
boxes = f'{_base_.data_root}/detection/32/unlabeled'
detections = dict(
    type='LoadDetections',
    results=f'{boxes}.bbox.json',
    images=f'{boxes}.json',
    score_thr=0.9,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong, detections=detections)))
