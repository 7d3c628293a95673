# Figure 7: 7.
_base_ = '../weighting_unimatch_deeplabv3plus_r101_voc12-183.py'
model = dict(refiners=dict(weight=dict(k=7)))
