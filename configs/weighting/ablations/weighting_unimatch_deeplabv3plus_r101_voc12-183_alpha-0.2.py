# Supplementary Table 2: 0.2.
_base_ = '../weighting_unimatch_deeplabv3plus_r101_voc12-183.py'
model = dict(losses=dict(strong=dict(loss_weight=0.1), perturbed=dict(loss_weight=0.1)))
