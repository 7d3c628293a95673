# Mean Teacher on Lucchi.
_base_ = ['../settings/lucchi_513-d16.py', '../methods/mean_teacher.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
