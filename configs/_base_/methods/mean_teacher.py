# Mean Teacher (NeurIPS 2017): an EMA teacher labels the weak view, the student is trained on one
# strong view with cross entropy.
method = dict(
    type='SemiSegmentor',
    teacher=dict(type='EMATeacher', momentum=0.99),
    supervised_weight=1.0,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.95)),
    losses=dict(strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=1.0)),
)
