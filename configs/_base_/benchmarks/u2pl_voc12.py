# U2PL on VOC, 16 labeled and 16 unlabeled images on 4 GPUs; the first epoch trains on labeled
# images alone. The teacher predicts.
_base_ = ['../settings/voc12_513-d8.py', '../datasets/mixing_alone.py', '../methods/u2pl.py']
method = _base_.method
method.test_cfg = dict(predict_with='teacher')
model = dict(_delete_=True, segmentor=_base_.model, warmup_epochs=1, **method)
train_dataloader = dict(dataset=_base_.loader)
