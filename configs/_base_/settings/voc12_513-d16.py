# VOC, crop 513, output stride 16: 8 labeled and 8 unlabeled images on 4 GPUs, as UniMatch has it.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/voc12.py',
    '../models/deeplabv3plus_r101-d16.py',
    '../schedules/sgd_voc12_80e.py',
]
auto_scale_lr = dict(base_batch_size=16)
train_dataloader = dict(batch_size=4, dataset=dict(geometry=dict(crop=dict(crop_size=(513, 513)))))
