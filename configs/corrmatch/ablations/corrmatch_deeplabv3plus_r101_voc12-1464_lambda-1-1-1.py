# Table 11: 1 1 1.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(
    losses=dict(
        strong=dict(loss_weight=0.25),
        perturbed=dict(loss_weight=0.25),
        soft=dict(loss_weight=0.5),
    ),
    heads=dict(correlation=dict(unlabeled_weight=0.5)),
)
