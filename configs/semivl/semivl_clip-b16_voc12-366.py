_base_ = '../_base_/benchmarks/semivl_clip_voc12.py'
split = 'ImageSets/Segmentation/semi/366'
labeled = dict(ann_file=f'{split}/labeled.txt')
unlabeled = dict(ann_file=f'{split}/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
