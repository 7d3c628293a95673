# AugSeg on VOC.
_base_ = ['../settings/voc12_513-d8.py', '../methods/augseg.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
# One strong view of one to three random intensity operations.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2].update(num_views=1, transforms=[dict(type='RandomIntensityAugment')])
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
