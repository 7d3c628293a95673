# CutMix-Seg on Cityscapes.
_base_ = [
    '../settings/cityscapes_769-d8_2+2.py',
    '../datasets/mixing_alone.py',
    '../methods/cutmix_seg.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=_base_.loader)
