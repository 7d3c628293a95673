# Cityscapes with train ids (tools/dataset_converters/cityscapes_train_ids.py) and the published
# splits (tools/dataset_converters/import_splits.py). The environment variable CITYSCAPES_ROOT says
# where the data are, if not in data/cityscapes.
_base_ = './papers.py'
data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}'
# Classes of which masks_to_coco.py makes boxes, as in Weighting Pseudo-Labels (ECCV 2024).
detection_classes = (
    *('person', 'rider', 'car', 'bicycle', 'motorcycle', 'train', 'truck', 'bus'),
    *('traffic light', 'traffic sign'),
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        labeled=dict(
            type='CityscapesDataset',
            data_root=data_root,
            data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
            ann_file='semi/186/labeled.txt',
        ),
        unlabeled=dict(
            data_root=data_root,
            data_prefix=dict(img_path='leftImg8bit/train'),
            img_suffix='_leftImg8bit.png',
            ann_file='semi/186/unlabeled.txt',
        ),
        geometry=dict(crop=dict(crop_size=(801, 801))),
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
    )
)
test_dataloader = val_dataloader
