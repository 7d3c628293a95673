# ADE20K, crop 518, DINOv2: 8 labeled and 8 unlabeled images on 4 GPUs, as UniMatch V2 has it.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/ade20k.py',
    '../models/dinov2-b_dpt.py',
    '../schedules/adamw_dinov2_60e.py',
]
model = dict(decode_head=dict(num_classes=150))
train_dataloader = dict(batch_size=4, dataset=dict(geometry=dict(crop=dict(crop_size=(518, 518)))))
auto_scale_lr = dict(base_batch_size=16)
