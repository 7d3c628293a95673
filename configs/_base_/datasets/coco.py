# COCO 2017 with 81 classes, background and the 80 kinds of things, masks of
# tools/dataset_converters/coco_masks.py, splits of tools/dataset_converters/import_splits.py. The
# environment variable COCO_ROOT says where the data are, if not in data/coco.
_base_ = './papers.py'
data_root = '{{$COCO_ROOT:data/coco}}'
train_dataloader = dict(
    dataset=dict(
        labeled=dict(
            type='COCO81Dataset',
            data_root=data_root,
            data_prefix=dict(img_path='train2017', seg_map_path='semantic_masks/train2017'),
            ann_file='semi/232/labeled.txt',
        ),
        unlabeled=dict(
            data_root=data_root,
            data_prefix=dict(img_path='train2017'),
            ann_file='semi/232/unlabeled.txt',
        ),
        geometry=dict(crop=dict(crop_size=(513, 513))),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='COCO81Dataset',
        data_root=data_root,
        data_prefix=dict(img_path='val2017', seg_map_path='semantic_masks/val2017'),
    )
)
test_dataloader = val_dataloader
