# Table 11: 0.3 0.3 0.3.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(
    losses=dict(
        strong=dict(loss_weight=0.075),
        perturbed=dict(loss_weight=0.075),
        soft=dict(loss_weight=0.15),
    ),
    heads=dict(correlation=dict(unlabeled_weight=0.15)),
)
