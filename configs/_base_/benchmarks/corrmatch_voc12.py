# CorrMatch on VOC, crop 321.
_base_ = ['../settings/voc12_321-d8.py', '../methods/corrmatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
