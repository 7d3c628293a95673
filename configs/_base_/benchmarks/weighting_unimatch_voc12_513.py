# Weighting on UniMatch, VOC, crop 513, with the paper's constants.
_base_ = ['../settings/voc12_513-d16.py', '../methods/weighting.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
# The leaf config says which boxes.
boxes = dict(type='LoadDetections', results='', images='', score_thr=0.85)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong, detections=boxes)))
