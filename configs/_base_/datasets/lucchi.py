# Lucchi, mitochondria in slices of a mouse brain (tools/dataset_converters/lucchi.py): 165 slices
# to train with, 165 to validate with. No split is published: make_splits.py draws these (seed 0).
# The environment variable LUCCHI_ROOT says where the data are, if not in data/lucchi.
_base_ = './papers.py'
data_root = '{{$LUCCHI_ROOT:data/lucchi}}'
train_dataloader = dict(
    dataset=dict(
        labeled=dict(
            type='LucchiDataset',
            data_root=data_root,
            data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
            ann_file='semi/5-seed0/labeled.txt',
        ),
        unlabeled=dict(
            data_root=data_root,
            data_prefix=dict(img_path='images/train'),
            ann_file='semi/5-seed0/unlabeled.txt',
        ),
        geometry=dict(crop=dict(crop_size=(513, 513))),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='LucchiDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
    )
)
test_dataloader = val_dataloader
