# Mitochondria in slices of a fly's nerve cord, 512 x 512 pixels:
# tools/dataset_converters/sstem.py.
# The environment variable SSTEM_ROOT says where the data are, if not in data/sstem.
_base_ = './real_images.py'
data_root = '{{$SSTEM_ROOT:data/sstem}}'
metainfo = dict(
    classes=('background', 'mitochondrion'),
    palette=[[0, 0, 0], [255, 0, 0]],
)
labeled = dict(data_root=data_root, metainfo=metainfo, ann_file='splits/2/labeled.txt')
unlabeled = dict(data_root=data_root, ann_file='splits/2/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
