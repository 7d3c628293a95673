_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/models/unet_digit_scenes.py',
    '../_base_/schedules/digit_scenes.py',
    '../_base_/methods/weighting.py',
]
method = _base_.method
# A network from scratch lives on the unlabeled images: alpha = 0.4 and weights that shrink the loss
# cost points here. So UniMatch's own balance, and weights 1 + s/k divided by their sum, as in the
# authors' program (the formula as printed: ablations/*_paper.py).
method.supervised_weight = 0.5
method.refiners.weight.base_weight = 1.0
for loss in method.losses.values():
    loss.update(loss_weight=0.25, denominator='weight')
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    # The network starts from scratch: it must know the digits a little before it teaches itself.
    warmup_iters=400,
    channels_last=True,
    **method,
)
# Boxes of configs/detection/faster-rcnn_r50_fpn_digit_scenes.py.
detections = f'{_base_.data_root}detection/labeled_60/'
boxes = dict(
    type='LoadDetections',
    results=f'{detections}unlabeled.bbox.json',
    images=f'{detections}unlabeled.json',
    score_thr=0.9,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong, detections=boxes)))
