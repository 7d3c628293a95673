# For own images, of which few are labeled: each class has a threshold that follows how sure the
# network is of it. With the paper's 0.95 for all (ConfidenceThreshold) rare classes are hardly
# trained (docs/results.md).
_base_ = '../unimatch_v2.py'
method = dict(
    teacher=dict(from_start=True),
    refiners=dict(
        select=dict(_delete_=True, type='EMAThreshold', update='per_class', warm_up=True)
    ),
)
