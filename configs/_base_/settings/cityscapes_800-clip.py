# Cityscapes, crop 800 (801 in the paper's program, no multiple of 16), CLIP, OHEM, images
# normalized as CLIP's own: 8 labeled and 8 unlabeled images on 4 GPUs, 240 passes.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/cityscapes.py',
    '../models/clip-b16.py',
    '../schedules/adamw_clip_80e.py',
]
model = dict(
    data_preprocessor=dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
    decode_head=dict(
        text='data/clip/cityscapes.pt',
        num_classes=19,
        sampler=dict(type='MeanOHEMPixelSampler', thresh=0.7, min_kept=200000),
    ),
    test_cfg=dict(crop_size=(800, 800), stride=(533, 533)),
)
train_dataloader = dict(dataset=dict(geometry=dict(crop=dict(crop_size=(800, 800)))))
optim_wrapper = dict(
    optimizer=dict(lr=5e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.01)))
)
train_cfg = dict(max_epochs=240, val_interval=5)
