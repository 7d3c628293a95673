_base_ = ['../_base_/settings/deeplabv3plus_r50_custom.py', '../_base_/methods/fixmatch.py']
method = _base_.method
# A threshold for each class, which follows how sure the network is of it: with the paper's 0.95 for
# all (ConfidenceThreshold) rare classes are hardly trained and vanish (docs/results.md).
method.refiners.select = dict(type='EMAThreshold', update='per_class', initial=0.5)
# An EMA teacher labels, which few labels ask for; teacher=None for the student, as in the paper.
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    teacher=dict(type='EMATeacher', momentum=0.996),
    warmup_iters=2000,
    **method,
)
