_base_ = '../_base_/benchmarks/supervised_dinov2_coco.py'
labeled = dict(ann_file='semi/232/labeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled))
loop = dict(_delete_=True, type='SemiTrainLoop')
train_cfg = dict(loop, max_iters=18740, val_interval=468)
