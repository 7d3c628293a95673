_base_ = '../_base_/benchmarks/rankmatch_voc12.py'
split = 'ImageSets/Segmentation/semi/cps_2646'
labeled = dict(ann_file=f'{split}/labeled.txt')
unlabeled = dict(ann_file=f'{split}/unlabeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
