# Digit scenes: tools/dataset_converters/digit_scenes.py. Digits are not flipped.
_base_ = './semi.py'
data_root = 'data/digit_scenes/'
classes = ('background', 'zero', 'one', 'two', 'three', 'four')
palette = [[0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25], [67, 99, 216], [245, 130, 49]]
metainfo = dict(classes=classes, palette=palette)
# Boxes of masks_to_coco.py: smaller parts of digits are dropped.
detection_min_area = 20
part = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=metainfo,
    img_suffix='.png',
    seg_map_suffix='.png',
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        labeled=dict(
            part,
            data_prefix=dict(img_path='images/labeled', seg_map_path='annotations/labeled'),
            ann_file='splits/labeled_60.txt',
        ),
        unlabeled=dict(data_root=data_root, data_prefix=dict(img_path='images/unlabeled')),
        geometry=dict(
            resize=dict(
                _delete_=True,
                type='RandomResize',
                scale=(64, 64),
                ratio_range=(0.9, 1.15),
                keep_ratio=True,
            ),
            crop=dict(crop_size=(64, 64)),
            flip=None,
        ),
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(part, data_prefix=dict(img_path='images/val', seg_map_path='annotations/val')),
)
test_dataloader = dict(
    val_dataloader,
    dataset=dict(part, data_prefix=dict(img_path='images/test', seg_map_path='annotations/test')),
)
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
