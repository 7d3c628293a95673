# ADE20K with 150 classes as mmseg has it (0 in a mask is ignored), and the published splits
# (tools/dataset_converters/import_splits.py), images at their own size in validation. The
# environment variable ADE20K_ROOT says where the data are, if not in data/ade/ADEChallengeData2016.
_base_ = './papers.py'
data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
train_dataloader = dict(
    dataset=dict(
        labeled=dict(
            type='ADE20KDataset',
            data_root=data_root,
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            ann_file='semi/316/labeled.txt',
        ),
        unlabeled=dict(
            data_root=data_root,
            data_prefix=dict(img_path='images/training'),
            ann_file='semi/316/unlabeled.txt',
        ),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
    )
)
test_dataloader = val_dataloader
