# The paper's constants. Boxes of configs/detection/faster-rcnn_r50_fpn_cityscapes.py.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/models/deeplabv3plus_r101_cityscapes.py',
    '../_base_/schedules/sgd_cityscapes_240e.py',
    '../_base_/methods/weighting.py',
]
method = _base_.method
method.refiners.select.threshold = 0.0
model = dict(_delete_=True, segmentor=_base_.model, **method)
custom_hooks = [*_base_.custom_hooks, dict(type='MemoryBankHook')]
detections = f'{_base_.data_root}detection/186/'
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline.insert(
    2,
    dict(
        type='LoadDetections',
        results=f'{detections}unlabeled.bbox.json',
        images=f'{detections}unlabeled.json',
        score_thr=0.95,
    ),
)
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
