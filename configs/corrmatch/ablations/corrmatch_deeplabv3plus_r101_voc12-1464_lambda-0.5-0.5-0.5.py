# Table 11: 0.5 0.5 0.5.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(
    losses=dict(
        strong=dict(loss_weight=0.125),
        perturbed=dict(loss_weight=0.125),
        soft=dict(loss_weight=0.25),
    ),
    heads=dict(correlation=dict(unlabeled_weight=0.25)),
)
