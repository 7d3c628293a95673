# Weighting on AEL, VOC. The leaf config says which boxes.
_base_ = ['./ael_voc12.py', '../methods/weighting_parts.py']
model = dict(**_base_.parts)
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline.insert(2, dict(_base_.boxes, score_thr=0.85))
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
