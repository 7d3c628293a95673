# The name is that of its model base: what is trained is a narrow ResNet-18 with a small FPN, from
# scratch, in minutes on a CPU. Images are enlarged to 96x96.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../_base_/detection_runtime.py']
data_root = 'data/digit_scenes/'
split = 'detection/labeled_60/'
metainfo = dict(
    classes=('zero', 'one', 'two', 'three', 'four'),
    palette=[[230, 25, 75], [60, 180, 75], [255, 225, 25], [67, 99, 216], [245, 130, 49]],
)
max_iters = 800
scale = (96, 96)
channels = 48
model = dict(
    backbone=dict(
        depth=18,
        base_channels=24,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[48, 96], out_channels=channels, num_outs=2),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4, 5.5], ratios=[1.0, 1.5, 2.5], strides=[8, 16]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, featmap_strides=[8, 16], finest_scale=28),
        bbox_head=dict(in_channels=channels, fc_out_channels=192, num_classes=5),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=50),
        rcnn=dict(nms=dict(iou_threshold=0.3, class_agnostic=True), max_per_img=20),
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PhotoMetricDistortion', hue_delta=60),
    dict(type='RandomResize', scale=scale, ratio_range=(0.85, 1.2), keep_ratio=False),
    dict(
        type='RandomAffine',
        max_rotate_degree=8.0,
        max_translate_ratio=0.15,
        scaling_ratio_range=(0.9, 1.1),
        max_shear_degree=6.0,
    ),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=12,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file=split + 'labeled.json',
        data_prefix=dict(img='images/labeled/'),
        pipeline=train_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file=split + 'unlabeled.json',
        data_prefix=dict(img='images/unlabeled/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + split + 'unlabeled.json',
    format_only=True,
    outfile_prefix=data_root + split + 'unlabeled',
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_dataloader = None
val_cfg = None
val_evaluator = None
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50),
]
auto_scale_lr = dict(base_batch_size=12)
default_hooks = dict(checkpoint=dict(interval=300))
randomness = dict(seed=0)
