# Mean Teacher on VOC. Photometry is what its strong view has, since it mixes nothing.
_base_ = ['../settings/voc12_513-d8_3+3.py', '../methods/mean_teacher.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
