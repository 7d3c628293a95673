# Mean Teacher (NeurIPS 2017): an EMA teacher labels the weak view, the student is trained on one
# strong view with cross entropy. MeanTeacherHook moves the teacher (the leaf config adds it).
method = dict(
    type='SemiSegmentor',
    teacher=dict(type='ema'),
    supervised_weight=1.0,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.95)),
    losses=dict(strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=1.0)),
)
