# AEL on Cityscapes, crop 769, with OHEM: 8 labeled and 8 unlabeled images on 4 GPUs.
_base_ = ['../settings/cityscapes_769-d8_2+2.py', '../methods/ael.py']
_base_.model.decode_head.sampler = dict(type='MeanOHEMPixelSampler', thresh=0.7, min_kept=100000)
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
auto_scale_lr = dict(base_batch_size=16)
