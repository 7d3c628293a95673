# Table 8: uniform 64.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(refiners=dict(regions=dict(strategy='uniform', num_shapes=64)))
