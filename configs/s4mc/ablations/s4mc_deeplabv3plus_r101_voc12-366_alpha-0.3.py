# Table 4b: 30 %.
_base_ = '../s4mc_deeplabv3plus_r101_voc12-366.py'
model = dict(refiners=dict(select=dict(alpha=0.3)))
