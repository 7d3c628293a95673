# S4MC on CutMix-Seg on Cityscapes.
_base_ = ['../settings/cityscapes_769-d8_2+2.py', '../methods/s4mc.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
