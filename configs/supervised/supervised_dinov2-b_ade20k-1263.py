_base_ = '../_base_/benchmarks/supervised_dinov2_ade20k.py'
labeled = dict(ann_file='semi/1263/labeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled))
loop = dict(_delete_=True, type='SemiTrainLoop')
train_cfg = dict(loop, max_iters=22500, val_interval=562)
