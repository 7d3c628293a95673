# Table 7: frozen.
_base_ = '../unimatch_v2_dinov2-b_ade20k-2526.py'
model = dict(segmentor=dict(backbone=dict(frozen=True)))
