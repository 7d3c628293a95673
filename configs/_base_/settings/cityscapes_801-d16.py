# Cityscapes, crop 801, output stride 16, OHEM: 8 labeled and 8 unlabeled images on 4 GPUs, as
# UniMatch has it.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/cityscapes.py',
    '../models/deeplabv3plus_r101-d16_cityscapes.py',
    '../schedules/sgd_cityscapes_240e.py',
]
auto_scale_lr = dict(base_batch_size=16)
train_dataloader = dict(batch_size=4)
