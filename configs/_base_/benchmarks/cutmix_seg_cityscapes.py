# CutMix-Seg on Cityscapes.
_base_ = ['../settings/cityscapes_769-d8_2+2.py', '../methods/cutmix_seg.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
