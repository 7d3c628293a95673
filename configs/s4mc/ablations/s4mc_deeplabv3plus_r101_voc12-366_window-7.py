# Table 4a: max 7x7.
_base_ = '../s4mc_deeplabv3plus_r101_voc12-366.py'
model = dict(refiners=dict(context=dict(window=7)))
