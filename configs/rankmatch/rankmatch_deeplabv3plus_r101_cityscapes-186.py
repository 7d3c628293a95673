# RankMatch: crop 801, threshold 0, OHEM; 8 labeled and 8 unlabeled images a batch on 4 GPUs.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/models/deeplabv3plus_r101_cityscapes.py',
    '../_base_/schedules/sgd_cityscapes_240e.py',
    '../_base_/methods/rankmatch.py',
]
method = _base_.method
method.refiners.select.threshold = 0.0
model = dict(_delete_=True, segmentor=_base_.model, **method)
train_dataloader = dict(batch_size=4)
