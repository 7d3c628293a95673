# S4MC on FixMatch: as on CutMix-Seg, with an EMA teacher too, on FixMatch's one strong view.
_base_ = './fixmatch.py'
method = dict(
    teacher=dict(type='EMATeacher', momentum=0.99),
    refiners=dict(
        context=dict(type='NeighborhoodRefiner', window=3, neighbors=1, criterion='max'),
        select=dict(_delete_=True, type='QuantileThreshold', score='margin', alpha=0.4),
    ),
    losses=dict(strong=dict(denominator='selected')),
)
