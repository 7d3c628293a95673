# Cityscapes, crop 798, DINOv2, OHEM: 8 labeled and 8 unlabeled images on 4 GPUs, 180 passes.
# Windows of the crop's size at two thirds of it, the last ones moved inside, softmax summed.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/cityscapes.py',
    '../models/dinov2-b_dpt.py',
    '../schedules/adamw_dinov2_60e.py',
]
model = dict(
    decode_head=dict(
        num_classes=19, sampler=dict(type='MeanOHEMPixelSampler', thresh=0.7, min_kept=200000)
    ),
    test_cfg=dict(
        mode='slide',
        crop_size=(798, 798),
        stride=(532, 532),
        window_average='prob',
        window_border='shift',
    ),
)
train_dataloader = dict(batch_size=4, dataset=dict(geometry=dict(crop=dict(crop_size=(798, 798)))))
train_cfg = dict(max_epochs=180, val_interval=5)
auto_scale_lr = dict(base_batch_size=16)
