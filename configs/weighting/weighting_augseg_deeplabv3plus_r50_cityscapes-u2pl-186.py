_base_ = '../_base_/benchmarks/weighting_augseg_cityscapes.py'
split = 'semi/u2pl_186'
labeled = dict(ann_file=f'{split}/labeled.txt')
boxes = f'{_base_.data_root}/detection/u2pl_186/unlabeled'
detections = dict(results=f'{boxes}.bbox.json', images=f'{boxes}.json')
unlabeled = dict(ann_file=f'{split}/unlabeled.txt', detections=detections)
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
model = dict(segmentor=dict(pretrained='open-mmlab://resnet50_v1c', backbone=dict(depth=50)))
