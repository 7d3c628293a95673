_base_ = '../_base_/benchmarks/supervised_voc12_513.py'
labeled = dict(ann_file='ImageSets/Segmentation/semi/732/labeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled))
# As many iterations as the semi-supervised runs.
loop = dict(_delete_=True, type='SemiTrainLoop')
train_cfg = dict(loop, max_iters=98560, val_interval=2464)
