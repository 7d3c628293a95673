# For own images, of which few are labeled. An EMA teacher labels (teacher=None for the student, as
# in the paper), which averages from the first step on, because a copy of the student that the start
# on labels alone leaves is too sure of itself; and each class has a threshold that follows how sure
# the network is of it: with the paper's 0.95 for all (ConfidenceThreshold) rare classes are hardly
# trained (docs/results.md).
_base_ = '../unimatch.py'
method = dict(
    teacher=dict(type='EMATeacher', momentum=0.996, from_start=True),
    refiners=dict(
        select=dict(_delete_=True, type='EMAThreshold', update='per_class', warm_up=True)
    ),
)
