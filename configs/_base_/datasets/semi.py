# What all data sets share; a data set adds where its images are and changes entries by name.
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SemiSampler', ratio=(1, 1)),
    collate_fn=dict(type='semi_collate'),
    dataset=dict(
        type='SemiDataset',
        labeled=dict(),
        unlabeled=dict(
            type='UnlabeledDataset',
            # One strong view; methods with more say so (_base_/methods).
            strong=dict(
                num_views=1,
                transforms=dict(
                    order=('color', 'gray', 'blur'),
                    color=dict(
                        type='RandomColorJitter',
                        brightness=0.5,
                        contrast=0.5,
                        saturation=0.5,
                        hue=0.25,
                    ),
                    gray=dict(type='RandomGray', prob=0.2),
                    blur=dict(type='RandomGaussianBlur', sigma=(0.1, 2.0), prob=0.5),
                ),
            ),
        ),
        # Weak augmentation of labeled and unlabeled images. Batches are padded to the crop after
        # normalization.
        geometry=dict(
            order=('resize', 'crop', 'flip'),
            resize=dict(type='RandomRelativeResize', ratio_range=(0.5, 2.0)),
            crop=dict(type='RandomCrop', crop_size=(321, 321)),
            flip=dict(type='RandomFlip', prob=0.5),
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='CheckAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=ratio, keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
tta_model = dict(type='SegTTAModel')
