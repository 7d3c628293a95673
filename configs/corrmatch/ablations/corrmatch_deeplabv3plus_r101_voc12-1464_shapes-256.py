# Table 8: random 256.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(refiners=dict(regions=dict(num_shapes=256)))
