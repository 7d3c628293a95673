# As in unimatch.py. The mean over the permutations, as in the program: their sum, 24 times larger,
# is most of what a network learns from few labels (docs/results.md).
_base_ = '../rankmatch.py'
method = dict(
    teacher=dict(type='EMATeacher', momentum=0.996, from_start=True),
    refiners=dict(
        select=dict(_delete_=True, type='EMAThreshold', update='per_class', warm_up=True)
    ),
    heads=dict(rank=dict(reduction='mean')),
)
