# Table 6: pixel.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(refiners=dict(regions=None))
