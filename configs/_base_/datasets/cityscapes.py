# Cityscapes with train ids (tools/dataset_converters/cityscapes_train_ids.py) and the published
# splits (tools/dataset_converters/import_splits.py). The environment variable CITYSCAPES_ROOT says
# where the data are, if not in data/cityscapes.
data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}'
# Classes of which masks_to_coco.py makes boxes, as in Weighting Pseudo-Labels (ECCV 2024).
detection_classes = (
    *('person', 'rider', 'car', 'bicycle', 'motorcycle', 'train', 'truck', 'bus'),
    *('traffic light', 'traffic sign'),
)
crop_size = (801, 801)
weak_geometry = [
    dict(type='RandomRelativeResize', ratio_range=(0.5, 2.0)),
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
    dict(type='LoadAnnotations'),
    dict(type='CheckAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SemiSampler', ratio=(1, 1)),
    collate_fn=dict(type='semi_collate'),
    dataset=dict(
        type='SemiDataset',
        labeled=dict(
            type='CityscapesDataset',
            data_root=data_root,
            data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
            ann_file='semi/186/labeled.txt',
            pipeline=labeled_pipeline,
        ),
        unlabeled=dict(
            type='UnlabeledDataset',
            data_root=data_root,
            data_prefix=dict(img_path='leftImg8bit/train'),
            img_suffix='_leftImg8bit.png',
            ann_file='semi/186/unlabeled.txt',
            pipeline=unlabeled_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
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
