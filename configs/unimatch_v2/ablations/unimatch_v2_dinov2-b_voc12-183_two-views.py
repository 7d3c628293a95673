# Views, dropout and teacher: two views.
_base_ = '../unimatch_v2_dinov2-b_voc12-183.py'
model = dict(streams=dict(strong=dict(perturbation=None)))
