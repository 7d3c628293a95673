# CorrMatch on VOC, crop 321.
_base_ = ['../settings/voc12_321-d8.py', '../methods/corrmatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
# One strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
