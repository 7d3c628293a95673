# CutMix-Seg on VOC.
_base_ = [
    '../settings/voc12_513-d8_3+3.py',
    '../datasets/mixing_alone.py',
    '../methods/cutmix_seg.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=_base_.loader)
