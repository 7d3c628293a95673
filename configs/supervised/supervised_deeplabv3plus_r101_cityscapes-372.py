_base_ = '../_base_/benchmarks/supervised_cityscapes.py'
labeled = dict(ann_file='semi/372/labeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled))
# As many iterations as the semi-supervised runs.
loop = dict(_delete_=True, type='SemiTrainLoop')
train_cfg = dict(loop, max_iters=78240, val_interval=1956)
