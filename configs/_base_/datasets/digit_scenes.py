# Digit scenes: tools/dataset_converters/digit_scenes.py. Digits are not flipped.
data_root = 'data/digit_scenes/'
classes = ('background', 'zero', 'one', 'two', 'three', 'four')
palette = [[0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25], [67, 99, 216], [245, 130, 49]]
metainfo = dict(classes=classes, palette=palette)
# Boxes of masks_to_coco.py: smaller parts of digits are dropped.
detection_min_area = 20
crop_size = (64, 64)
weak_geometry = [
    dict(type='RandomResize', scale=crop_size, ratio_range=(0.9, 1.15), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
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
    dict(type='LoadAnnotations'),
    dict(type='CheckAnnotations'),
    dict(type='PackSegInputs'),
]
labeled = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=metainfo,
    img_suffix='.png',
    seg_map_suffix='.png',
    data_prefix=dict(img_path='images/labeled', seg_map_path='annotations/labeled'),
    ann_file='splits/labeled_60.txt',
    pipeline=labeled_pipeline,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='SemiSampler', ratio=(1, 1)),
    collate_fn=dict(type='semi_collate'),
    dataset=dict(
        type='SemiDataset',
        labeled=labeled,
        unlabeled=dict(
            type='UnlabeledDataset',
            data_root=data_root,
            data_prefix=dict(img_path='images/unlabeled'),
            pipeline=unlabeled_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    val_dataloader,
    dataset=dict(
        val_dataloader['dataset'],
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=ratio, keep_ratio=True)
                for ratio in (0.75, 1.0, 1.25)
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
tta_model = dict(type='SegTTAModel')
