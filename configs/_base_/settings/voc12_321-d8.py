# VOC, crop 321, output stride 8: 16 labeled and 16 unlabeled images on 4 GPUs, as CorrMatch has it.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/voc12.py',
    '../models/deeplabv3plus_r101-d8.py',
    '../schedules/sgd_voc12_80e.py',
]
auto_scale_lr = dict(base_batch_size=32)
train_dataloader = dict(batch_size=8)
