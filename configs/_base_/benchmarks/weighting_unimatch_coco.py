# Weighting on UniMatch, COCO. Which boxes count is not in the paper: those of VOC's score do.
_base_ = ['../settings/coco_513-d16.py', '../methods/weighting.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
# The leaf config says which boxes.
boxes = dict(type='LoadDetections', results='', images='', score_thr=0.85)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong, detections=boxes)))
