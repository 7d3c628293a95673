# FixMatch on Cityscapes: every pixel is selected.
_base_ = ['../settings/cityscapes_801-d16.py', '../methods/fixmatch.py']
method = _base_.method
method.refiners.select.threshold = 0.0
model = dict(_delete_=True, segmentor=_base_.model, **method)
