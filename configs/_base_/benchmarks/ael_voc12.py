# AEL on VOC, with OHEM.
_base_ = ['../settings/voc12_513-d8.py', '../methods/ael.py']
_base_.model.decode_head.sampler = dict(type='MeanOHEMPixelSampler', thresh=0.7, min_kept=100000)
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
# One learning rate for backbone and heads.
head = dict(lr_mult=1.0)
optim_wrapper = dict(
    optimizer=dict(lr=0.01),
    paramwise_cfg=dict(custom_keys=dict(decode_head=head, auxiliary_head=head, heads=head)),
)
