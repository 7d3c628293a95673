# FixMatch on VOC.
_base_ = ['../settings/voc12_321-d16.py', '../methods/fixmatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
