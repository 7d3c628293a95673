# CamVid, street scenes of 240 x 180 pixels: tools/dataset_converters/camvid.py.
# The environment variable CAMVID_ROOT says where the data are, if not in data/camvid.
_base_ = './real_images.py'
data_root = '{{$CAMVID_ROOT:data/camvid}}'
metainfo = dict(
    classes=(
        'sky',
        'building',
        'pole',
        'road',
        'pavement',
        'tree',
        'sign',
        'fence',
        'car',
        'pedestrian',
        'bicyclist',
    ),
    palette=[
        [128, 128, 128],
        [128, 0, 0],
        [192, 192, 128],
        [128, 64, 128],
        [60, 40, 222],
        [128, 128, 0],
        [192, 128, 128],
        [64, 64, 128],
        [64, 0, 128],
        [64, 64, 0],
        [0, 128, 192],
    ],
)
# Boxes of masks_to_coco.py: of things that boxes describe, which poles and fences are not, and of
# smaller parts than by default, since images are half as wide as those that the default is for.
detection_classes = ('sign', 'car', 'pedestrian', 'bicyclist')
detection_min_area = 20
labeled = dict(data_root=data_root, metainfo=metainfo, ann_file='splits/12/labeled.txt')
unlabeled = dict(data_root=data_root, ann_file='splits/12/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
