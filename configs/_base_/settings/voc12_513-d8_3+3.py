# VOC, crop 513, output stride 8: 3 labeled and 3 unlabeled images on one GPU, as S4MC has it.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/voc12.py',
    '../models/deeplabv3plus_r101-d8.py',
    '../schedules/sgd_voc12_80e.py',
]
auto_scale_lr = dict(base_batch_size=6)
train_dataloader = dict(batch_size=6, dataset=dict(geometry=dict(crop=dict(crop_size=(513, 513)))))
