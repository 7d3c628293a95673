# Weighting on AEL, Cityscapes, crop 801. The leaf config says which boxes.
_base_ = ['./ael_cityscapes.py', '../methods/weighting_parts.py']
windows = dict(crop_size=(801, 801), stride=(534, 534))
model = dict(segmentor=dict(test_cfg=windows), **_base_.parts)
boxes = dict(_base_.boxes, score_thr=0.95)
geometry = dict(crop=dict(crop_size=(801, 801)))
train_dataloader = dict(dataset=dict(geometry=geometry, unlabeled=dict(detections=boxes)))
