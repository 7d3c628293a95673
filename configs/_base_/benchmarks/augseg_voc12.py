# AugSeg on VOC, 16 labeled and 16 unlabeled images on 4 GPUs; the long side of an image becomes 250
# to 1000 pixels. The teacher predicts.
_base_ = ['../settings/voc12_513-d16.py', '../methods/augseg.py']
method = _base_.method
method.test_cfg = dict(predict_with='teacher')
model = dict(_delete_=True, segmentor=_base_.model, **method)
auto_scale_lr = dict(base_batch_size=32)
geometry = dict(resize=dict(long_side=500))
train_dataloader = dict(
    batch_size=8, dataset=dict(geometry=geometry, unlabeled=dict(strong=_base_.strong))
)
