# Mean Teacher on Cityscapes. Photometry is what its strong view has, since it mixes nothing.
_base_ = ['../settings/cityscapes_769-d8_2+2.py', '../methods/mean_teacher.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
