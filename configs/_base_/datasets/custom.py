# Your own images. The folders, relative to data_root (each data_prefix can be changed):
#   images/labeled    annotations/labeled    the few labeled images and their masks
#   images/unlabeled                         many images, nested folders allowed, no masks
#   images/val        annotations/val        for validation and test
# A mask is a single-channel PNG of class numbers 0..K-1, 255 where nobody knows; mask and image
# have the same name without suffix.
# After mmseg-semi split all images are in images and all masks in annotations, and lists divide
# them: data_prefix=dict(img_path='images', seg_map_path='annotations'),
# ann_file='splits/50-seed0/labeled.txt' (unlabeled.txt, val.txt, test.txt) in each part.
_base_ = './semi.py'
data_root = 'data/custom/'
metainfo = dict(classes=('background', 'object'))
part = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=metainfo,
    img_suffix=('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'),
    seg_map_suffix='.png',
)
train_dataloader = dict(
    dataset=dict(
        labeled=dict(
            part, data_prefix=dict(img_path='images/labeled', seg_map_path='annotations/labeled')
        ),
        unlabeled=dict(data_root=data_root, data_prefix=dict(img_path='images/unlabeled')),
        geometry=dict(
            resize=dict(
                _delete_=True,
                type='RandomResize',
                scale=(1280, 320),
                ratio_range=(0.5, 2.0),
                keep_ratio=True,
            ),
            crop=dict(crop_size=(320, 320)),
        ),
    )
)
val_dataloader = dict(
    dataset=dict(
        part,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(1280, 320), keep_ratio=True),
            # The truth is loaded after resizing: predictions are compared at the image's own size.
            dict(type='LoadAnnotations'),
            dict(type='CheckAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
)
test_dataloader = val_dataloader
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
