# Figure 6: cosine.
_base_ = '../weighting_unimatch_deeplabv3plus_r101_voc12-183.py'
model = dict(refiners=dict(weight=dict(similarity='cosine')))
