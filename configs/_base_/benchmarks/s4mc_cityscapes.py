# S4MC on CutMix-Seg on Cityscapes.
_base_ = ['../settings/cityscapes_769-d8_2+2.py', '../methods/s4mc.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
# One strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
