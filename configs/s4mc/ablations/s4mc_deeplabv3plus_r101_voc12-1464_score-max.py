# Table 5: maximum.
_base_ = '../s4mc_deeplabv3plus_r101_voc12-1464.py'
model = dict(refiners=dict(select=dict(score='max')))
