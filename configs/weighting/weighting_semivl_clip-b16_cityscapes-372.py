_base_ = '../_base_/benchmarks/weighting_semivl_clip_cityscapes.py'
split = 'semi/372'
labeled = dict(ann_file=f'{split}/labeled.txt')
boxes = f'{_base_.data_root}/detection/372/unlabeled'
detections = dict(results=f'{boxes}.bbox.json', images=f'{boxes}.json')
unlabeled = dict(ann_file=f'{split}/unlabeled.txt', detections=detections)
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
