# Weighting on U2PL, Cityscapes. The leaf config says which boxes.
_base_ = ['./u2pl_cityscapes.py', '../methods/weighting_parts.py']
model = dict(**_base_.parts)
boxes = dict(_base_.boxes, score_thr=0.95)
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=boxes)))
