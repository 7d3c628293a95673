# The teacher as in unimatch.py, and the paper's threshold: unsure pixels have little weight anyway.
# Weights of prototypes (PPW) alone: agreement with a detector's boxes needs a detector first.
_base_ = '../weighting.py'
method = dict(
    teacher=dict(type='EMATeacher', momentum=0.996, from_start=True),
    refiners=dict(agreement=None),
)
