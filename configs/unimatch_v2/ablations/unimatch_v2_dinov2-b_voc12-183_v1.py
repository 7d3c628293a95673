# Views, dropout and teacher: UniMatch with an EMA teacher.
_base_ = '../unimatch_v2_dinov2-b_voc12-183.py'
model = dict(
    streams=dict(
        strong=dict(perturbation=None),
        perturbed=dict(features='weak', perturbation=dict(type='FeatureDropout')),
    ),
    losses=dict(
        strong=dict(loss_weight=0.25),
        perturbed=dict(type='PseudoLabelCrossEntropy', stream='perturbed', loss_weight=0.25),
    ),
)
