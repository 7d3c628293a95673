# Boxes for COCO, learned from the masks of the 232 labeled images.
_base_ = './faster-rcnn_r50_fpn_voc12.py'
data_root = '{{$COCO_ROOT:data/coco}}/'
split = 'detection/232/'
metainfo = dict(
    classes=(
        *('person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat'),
        *('traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat'),
        *('dog', 'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'backpack'),
        *('umbrella', 'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball'),
        *('kite', 'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket'),
        *('bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple'),
        *('sandwich', 'orange', 'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair'),
        *('couch', 'potted plant', 'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse'),
        *('remote', 'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink'),
        *('refrigerator', 'book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier'),
        'toothbrush',
    )
)
max_iters = 6000
model = dict(roi_head=dict(bbox_head=dict(num_classes=len(metainfo['classes']))))
part = dict(data_root=data_root, metainfo=metainfo, data_prefix=dict(img='train2017/'))
train_dataloader = dict(dataset=dict(part, ann_file=split + 'labeled.json'))
test_dataloader = dict(dataset=dict(part, ann_file=split + 'unlabeled.json'))
test_evaluator = dict(
    ann_file=data_root + split + 'unlabeled.json', outfile_prefix=data_root + split + 'unlabeled'
)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = _base_.param_scheduler
param_scheduler[1]['milestones'] = [max_iters * 2 // 3, max_iters * 11 // 12]
