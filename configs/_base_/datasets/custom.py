# Your own images. The folders, relative to data_root (each data_prefix can be changed):
#   images/labeled    annotations/labeled    the few labeled images and their masks
#   images/unlabeled                         many images, nested folders allowed, no masks
#   images/val        annotations/val        for validation and test
# A mask is a single-channel PNG of class numbers 0..K-1, 255 where nobody knows; mask and image
# have the same name without suffix. Crop size and augmentation are inside the pipelines: to change
# them, copy this file.
data_root = 'data/custom/'
metainfo = dict(classes=('background', 'object'))
crop_size = (320, 320)
weak_geometry = [
    dict(type='RandomResize', scale=(1280, 320), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
]
strong_photometry = [
    dict(type='RandomColorJitter', brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25),
    dict(type='RandomGray', prob=0.2),
    dict(type='RandomGaussianBlur', sigma=(0.1, 2.0), prob=0.5),
]
labeled_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckAnnotations'),
    *weak_geometry,
    dict(type='PackSegInputs'),
]
unlabeled_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='InitValidMask'),
    *weak_geometry,
    dict(type='StrongViews', num_views=2, transforms=strong_photometry),
    dict(type='PackSemiInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1280, 320), keep_ratio=True),
    # The truth is loaded after resizing: predictions are compared at the image's own size.
    dict(type='LoadAnnotations'),
    dict(type='CheckAnnotations'),
    dict(type='PackSegInputs'),
]
labeled = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=metainfo,
    img_suffix='.jpg',
    seg_map_suffix='.png',
    data_prefix=dict(img_path='images/labeled', seg_map_path='annotations/labeled'),
    pipeline=labeled_pipeline,
)
unlabeled = dict(
    type='UnlabeledDataset',
    data_root=data_root,
    data_prefix=dict(img_path='images/unlabeled'),
    pipeline=unlabeled_pipeline,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SemiSampler', ratio=(1, 1)),
    collate_fn=dict(type='semi_collate'),
    dataset=dict(type='SemiDataset', labeled=labeled, unlabeled=unlabeled),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.jpg',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
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
                dict(type='Resize', scale=(1280, 320), keep_ratio=True),
                dict(type='Resize', scale=(1920, 480), keep_ratio=True),
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
tta_model = dict(type='SegTTAModel')
