# Boxes for Cityscapes, learned from the masks of the 186 labeled images.
_base_ = './faster-rcnn_r50_fpn_voc12.py'
data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}/'
split = 'detection/186/'
metainfo = dict(
    classes=(
        *('traffic light', 'traffic sign', 'person', 'rider', 'car', 'truck', 'bus', 'train'),
        *('motorcycle', 'bicycle'),
    )
)
scale = (2048, 1024)
max_iters = 6000
batch_size = 4
model = dict(roi_head=dict(bbox_head=dict(num_classes=len(metainfo['classes']))))
train_pipeline = [dict(t, scale=scale) if 'scale' in t else t for t in _base_.train_pipeline]
test_pipeline = [dict(t, scale=scale) if 'scale' in t else t for t in _base_.test_pipeline]
part = dict(data_root=data_root, metainfo=metainfo, data_prefix=dict(img='leftImg8bit/train/'))
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(part, ann_file=split + 'labeled.json', pipeline=train_pipeline),
)
test_dataloader = dict(
    dataset=dict(part, ann_file=split + 'unlabeled.json', pipeline=test_pipeline)
)
test_evaluator = dict(
    ann_file=data_root + split + 'unlabeled.json', outfile_prefix=data_root + split + 'unlabeled'
)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=0.02 * batch_size / 16))
param_scheduler = _base_.param_scheduler
param_scheduler[1]['milestones'] = [max_iters * 2 // 3, max_iters * 11 // 12]
auto_scale_lr = dict(base_batch_size=batch_size)
