# U2PL on Cityscapes. The teacher predicts.
_base_ = ['../settings/cityscapes_769-d8.py', '../methods/u2pl.py']
method = _base_.method
method.test_cfg = dict(predict_with='teacher')
model = dict(_delete_=True, segmentor=_base_.model, **method)
train_dataloader = dict(dataset=_base_.loader)
