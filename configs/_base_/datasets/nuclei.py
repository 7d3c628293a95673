# Cell nuclei of the 2018 Data Science Bowl, images of many sizes:
# tools/dataset_converters/nuclei.py.
# The environment variable NUCLEI_ROOT says where the data are, if not in data/nuclei.
_base_ = './real_images.py'
data_root = '{{$NUCLEI_ROOT:data/nuclei}}'
metainfo = dict(
    classes=('background', 'nucleus'),
    palette=[[0, 0, 0], [255, 0, 0]],
)
# Boxes of masks_to_coco.py: many nuclei are small.
detection_min_area = 20
labeled = dict(data_root=data_root, metainfo=metainfo, ann_file='splits/20/labeled.txt')
unlabeled = dict(data_root=data_root, ann_file='splits/20/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
