# Weighting on SemiVL, Cityscapes: the features are CLIP's embeddings of the image, and the weights
# multiply the loss of CLIP's labels too. The leaf config says which boxes.
_base_ = ['./semivl_clip_cityscapes.py', '../methods/weighting_parts.py']
parts = _base_.parts
parts.refiners.weight.tap = 'encoder'
model = dict(**parts)
boxes = dict(_base_.boxes, score_thr=0.95)
train_dataloader = dict(dataset=dict(unlabeled=dict(detections=boxes)))
