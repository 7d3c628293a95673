# Weighting on AugSeg, Cityscapes. The leaf config says which boxes.
_base_ = ['./augseg_cityscapes.py', '../methods/weighting_parts.py']
model = dict(**_base_.parts)
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline.insert(2, dict(_base_.boxes, score_thr=0.95))
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
