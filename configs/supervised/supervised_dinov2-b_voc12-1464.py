_base_ = '../_base_/benchmarks/supervised_dinov2_voc12.py'
labeled = dict(ann_file='ImageSets/Segmentation/semi/1464/labeled.txt')
train_dataloader = dict(dataset=dict(labeled=labeled))
loop = dict(_delete_=True, type='SemiTrainLoop')
train_cfg = dict(loop, max_iters=5580, val_interval=139)
