# AugSeg on Cityscapes, crop 800, 16 labeled and 16 unlabeled images on 4 GPUs: every pixel is
# selected. The teacher, of momentum 0.996, predicts.
_base_ = ['../settings/cityscapes_801-d16.py', '../methods/augseg.py']
segmentor, method = _base_.model, _base_.method
segmentor.decode_head.sampler.min_kept = 100000
segmentor.test_cfg.update(crop_size=(800, 800), stride=(533, 533))
method.teacher.momentum = 0.996
method.refiners.select.threshold = 0.0
method.test_cfg = dict(predict_with='teacher')
model = dict(_delete_=True, segmentor=segmentor, **method)
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-4))
auto_scale_lr = dict(base_batch_size=32)
geometry = dict(crop=dict(crop_size=(800, 800)))
train_dataloader = dict(
    batch_size=8, dataset=dict(geometry=geometry, unlabeled=dict(strong=_base_.strong))
)
