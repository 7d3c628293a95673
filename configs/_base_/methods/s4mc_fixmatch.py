# S4MC on FixMatch: as on CutMix-Seg, with an EMA teacher too, on FixMatch's one strong view.
# L = L_s + L_u.
_base_ = './fixmatch.py'
strong = dict(num_views=1)
method = dict(
    teacher=dict(type='EMATeacher', momentum=0.99),
    supervised_weight=1.0,
    refiners=dict(
        context=dict(type='NeighborhoodRefiner', window=3, neighbors=1, criterion='max'),
        select=dict(_delete_=True, type='QuantileThreshold', score='margin', alpha=0.4),
    ),
    losses=dict(strong=dict(loss_weight=1.0, denominator='selected')),
)
