# As in unimatch.py: the teacher averages in the start too. The share of unsure pixels falls with
# each iteration, because a short run may end within its first pass over the unlabeled images.
_base_ = '../u2pl.py'
method = dict(
    teacher=dict(from_start=True),
    refiners=dict(select=dict(decay_by='iteration')),
    heads=dict(contrast=dict(decay_by='iteration')),
)
