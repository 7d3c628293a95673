# The paper's constants. Boxes of configs/detection/faster-rcnn_r50_fpn_voc12.py.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/voc12.py',
    '../_base_/models/deeplabv3plus_r101_voc12.py',
    '../_base_/schedules/sgd_voc12_80e.py',
    '../_base_/methods/weighting.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
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
