# Table 5: negative entropy.
_base_ = '../s4mc_deeplabv3plus_r101_voc12-366.py'
model = dict(refiners=dict(select=dict(score='entropy')))
