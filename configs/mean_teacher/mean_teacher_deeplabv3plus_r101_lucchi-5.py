_base_ = '../_base_/benchmarks/mean_teacher_lucchi.py'
split = 'semi/5-seed0'
labeled = dict(ann_file=f'{split}/labeled.txt')
unlabeled = dict(ann_file=f'{split}/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
