# FixMatch on COCO.
_base_ = ['../settings/coco_513-d16.py', '../methods/fixmatch.py']
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
