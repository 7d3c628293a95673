# S4MC on FixMatch.
_base_ = './fixmatch.py'
method = dict(
    refiners=dict(
        context=dict(type='NeighborhoodRefiner', window=3, neighbors=1, criterion='max'),
        select=dict(_delete_=True, type='QuantileThreshold', score='margin', alpha=0.4),
    ),
    losses=dict(strong=dict(denominator='selected')),
)
