_base_ = '../_base_/benchmarks/unimatch_v2_dinov2_ade20k.py'
split = 'semi/2526'
labeled = dict(ann_file=f'{split}/labeled.txt')
unlabeled = dict(ann_file=f'{split}/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
model = dict(segmentor=_base_.dinov2_l)
