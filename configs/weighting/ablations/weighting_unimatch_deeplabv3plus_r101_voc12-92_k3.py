# Figure 7: 3.
_base_ = '../weighting_unimatch_deeplabv3plus_r101_voc12-92.py'
model = dict(refiners=dict(weight=dict(k=3)))
