# VOC, crop 518, DINOv2: 16 labeled and 16 unlabeled images on 4 GPUs, as UniMatch V2 has it.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/voc12.py',
    '../models/dinov2-b_dpt.py',
    '../schedules/adamw_dinov2_60e.py',
]
train_dataloader = dict(batch_size=8, dataset=dict(geometry=dict(crop=dict(crop_size=(518, 518)))))
