# Supplementary Table 2: 0.6.
_base_ = '../weighting_unimatch_deeplabv3plus_r101_voc12-92.py'
model = dict(losses=dict(strong=dict(loss_weight=0.3), perturbed=dict(loss_weight=0.3)))
