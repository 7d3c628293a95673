# Pascal VOC 2012 with the masks of SBD (tools/dataset_converters/voc_sbd.py) and the published
# splits (tools/dataset_converters/import_splits.py), images at their own size in validation. The
# environment variable VOC12_ROOT says where the data are, if not in data/VOCdevkit/VOC2012.
_base_ = './papers.py'
data_root = '{{$VOC12_ROOT:data/VOCdevkit/VOC2012}}'
train_dataloader = dict(
    dataset=dict(
        labeled=dict(
            type='PascalVOCDataset',
            data_root=data_root,
            data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
            ann_file='ImageSets/Segmentation/semi/92/labeled.txt',
        ),
        unlabeled=dict(
            data_root=data_root,
            data_prefix=dict(img_path='JPEGImages'),
            ann_file='ImageSets/Segmentation/semi/92/unlabeled.txt',
        ),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
    )
)
test_dataloader = val_dataloader
