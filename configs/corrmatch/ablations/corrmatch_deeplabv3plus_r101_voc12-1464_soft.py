# Table 5: dynamic + soft.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(
    refiners=dict(regions=None),
    heads=dict(correlation=None),
    losses=dict(strong=None, perturbed=None),
    streams=dict(perturbed=None, labeled_perturbed=None),
)
