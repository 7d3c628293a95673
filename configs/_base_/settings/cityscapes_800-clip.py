# Cityscapes, crop 800 (801 in the paper's program, no multiple of 16), CLIP, OHEM, images
# normalized as CLIP's own, the map of most detail a ResNet-101's: 8 labeled and 8 unlabeled images
# on 4 GPUs, 240 passes.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/cityscapes.py',
    '../models/clip-b16.py',
    '../schedules/adamw_clip_80e.py',
]
model = dict(
    data_preprocessor=dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
    backbone=dict(
        out_indices=(4,),
        detail=dict(
            type='ResNetV1c',
            depth=101,
            num_stages=1,
            out_indices=(0,),
            strides=(1,),
            dilations=(1,),
            norm_cfg=dict(type='BN', requires_grad=True),
            norm_eval=True,
            init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet101_v1c'),
        ),
    ),
    decode_head=dict(
        in_channels=(256, 768, 512),
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
