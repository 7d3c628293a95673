# Land cover in tiles of the Earth, 128 x 128 pixels: tools/dataset_converters/land_cover.py.
# The environment variable LAND_COVER_ROOT says where the data are, if not in data/land_cover.
_base_ = './real_images.py'
data_root = '{{$LAND_COVER_ROOT:data/land_cover}}'
metainfo = dict(
    classes=(
        'water',
        'forest',
        'shrubland',
        'savanna',
        'grassland',
        'cropland',
        'barren',
        'snow and ice',
    ),
    palette=[
        [0, 0, 120],
        [0, 100, 0],
        [160, 120, 60],
        [190, 200, 80],
        [120, 220, 100],
        [250, 200, 0],
        [220, 220, 190],
        [255, 255, 255],
    ],
)
labeled = dict(data_root=data_root, metainfo=metainfo, ann_file='splits/32/labeled.txt')
unlabeled = dict(data_root=data_root, ann_file='splits/32/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
