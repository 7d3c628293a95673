# Weighting on Mean Teacher, VOC. The leaf config says which boxes.
_base_ = ['./mean_teacher_voc12.py', '../methods/weighting_parts.py']
model = dict(**_base_.parts)
boxes = dict(_base_.boxes, score_thr=0.85)
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=boxes)))
