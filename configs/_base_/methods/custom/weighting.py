# As in unimatch.py. Weights of prototypes (PPW) alone: agreement with a detector's boxes needs a
# detector first.
_base_ = '../weighting.py'
method = dict(
    teacher=dict(type='EMATeacher', momentum=0.996),
    refiners=dict(
        select=dict(_delete_=True, type='EMAThreshold', update='per_class', warm_up=True),
        agreement=None,
    ),
)
