# Supplementary Table 2: 0.8.
_base_ = '../weighting_unimatch_deeplabv3plus_r101_voc12-92.py'
model = dict(losses=dict(strong=dict(loss_weight=0.4), perturbed=dict(loss_weight=0.4)))
