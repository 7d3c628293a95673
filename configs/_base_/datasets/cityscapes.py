# Cityscapes, laid out and converted as mmsegmentation documents it. The split files (one name a
# line, such as aachen/aachen_000000_000019) are yours: copy the published ones there.
data_root = 'data/cityscapes/'
# Classes of which masks_to_coco.py makes boxes, as in Weighting Pseudo-Labels (ECCV 2024).
detection_classes = (
    *('person', 'rider', 'car', 'bicycle', 'motorcycle', 'train', 'truck', 'bus'),
    *('traffic light', 'traffic sign'),
)
crop_size = (801, 801)
weak_geometry = [
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
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
