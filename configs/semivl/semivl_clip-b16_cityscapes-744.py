_base_ = '../_base_/benchmarks/semivl_clip_cityscapes.py'
split = 'semi/744'
labeled = dict(ann_file=f'{split}/labeled.txt')
unlabeled = dict(ann_file=f'{split}/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
