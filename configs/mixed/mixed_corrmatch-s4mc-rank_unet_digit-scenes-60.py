# CorrMatch, with S4MC's refinement and threshold and RankMatch's rank loss.
_base_ = '../corrmatch/corrmatch_unet_digit-scenes-60.py'
model = dict(
    refiners=dict(
        context=dict(type='NeighborhoodRefiner', window=3),
        select=dict(_delete_=True, type='QuantileThreshold', score='margin', alpha=0.4),
        regions=dict(threshold=0.85),
    ),
    heads=dict(rank=dict(type='AgentRankHead', tap='backbone.decoder.1', reduction='mean')),
)
