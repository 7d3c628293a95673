# Table 4a: random 5x5.
_base_ = '../s4mc_deeplabv3plus_r101_voc12-366.py'
model = dict(refiners=dict(context=dict(criterion='random', window=5)))
