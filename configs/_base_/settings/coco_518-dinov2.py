# COCO, crop 518, DINOv2: 16 labeled and 16 unlabeled images on 4 GPUs, 20 passes.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/coco.py',
    '../models/dinov2-b_dpt.py',
    '../schedules/adamw_dinov2_60e.py',
]
model = dict(decode_head=dict(num_classes=81))
train_dataloader = dict(batch_size=8, dataset=dict(geometry=dict(crop=dict(crop_size=(518, 518)))))
train_cfg = dict(max_epochs=20)
