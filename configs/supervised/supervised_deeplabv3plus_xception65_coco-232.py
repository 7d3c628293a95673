_base_ = '../_base_/benchmarks/supervised_coco.py'
labeled = dict(ann_file='semi/232/labeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled))
# As many iterations as the semi-supervised runs.
loop = dict(_delete_=True, type='SemiTrainLoop')
train_cfg = dict(loop, max_iters=442710, val_interval=11067)
