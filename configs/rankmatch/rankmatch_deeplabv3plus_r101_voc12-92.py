# RankMatch: 8 labeled and 8 unlabeled images a batch on 4 GPUs.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/voc12_513.py',
    '../_base_/models/deeplabv3plus_r101_voc12_513.py',
    '../_base_/schedules/sgd_voc12_80e.py',
    '../_base_/methods/rankmatch.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
auto_scale_lr = dict(base_batch_size=16)
train_dataloader = dict(batch_size=4)
