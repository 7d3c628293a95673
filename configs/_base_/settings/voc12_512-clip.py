# VOC, crop 512, CLIP: the short side of images is 512, in training times 0.5 to 2; windows of 512
# at steps of 426. 8 labeled and 8 unlabeled images on 4 GPUs.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/voc12.py',
    '../models/clip-b16.py',
    '../schedules/adamw_clip_80e.py',
]
geometry = dict(resize=dict(short_side=512), crop=dict(crop_size=(512, 512)))
train_dataloader = dict(batch_size=4, dataset=dict(geometry=geometry))
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(2048, 512), keep_ratio=True),
            dict(type='LoadAnnotations'),
            dict(type='CheckAnnotations'),
            dict(type='PackSegInputs'),
        ]
    )
)
test_dataloader = val_dataloader
