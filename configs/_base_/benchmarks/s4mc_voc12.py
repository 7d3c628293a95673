# S4MC on CutMix-Seg on VOC; the first epoch trains on labeled images alone. The teacher
# predicts.
_base_ = ['../settings/voc12_513-d8_3+3.py', '../datasets/mixing_alone.py', '../methods/s4mc.py']
method = _base_.method
method.test_cfg = dict(predict_with='teacher')
model = dict(_delete_=True, segmentor=_base_.model, warmup_epochs=1, **method)
train_dataloader = dict(dataset=_base_.loader)
