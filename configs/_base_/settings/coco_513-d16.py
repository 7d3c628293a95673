# COCO, crop 513, Xception-65 with output stride 16: 8 labeled and 8 unlabeled images on 4 GPUs.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/coco.py',
    '../models/deeplabv3plus_xception65.py',
    '../schedules/sgd_coco_30e.py',
]
auto_scale_lr = dict(base_batch_size=16)
train_dataloader = dict(batch_size=4)
