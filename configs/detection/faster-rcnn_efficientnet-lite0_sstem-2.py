_base_ = '../_base_/settings/faster-rcnn_efficientnet-lite0.py'
data_root = '{{$SSTEM_ROOT:data/sstem}}/'
boxes = 'detection/2/'
metainfo = dict(classes=('mitochondrion',))
model = dict(roi_head=dict(bbox_head=dict(num_classes=1)))
part = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(dataset=dict(part, ann_file=boxes + 'labeled.json'))
test_dataloader = dict(dataset=dict(part, ann_file=boxes + 'unlabeled.json'))
test_evaluator = dict(
    ann_file=data_root + boxes + 'unlabeled.json', outfile_prefix=data_root + boxes + 'unlabeled'
)
