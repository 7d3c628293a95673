# As in unimatch.py: the teacher averages in the start too.
_base_ = '../u2pl.py'
method = dict(teacher=dict(from_start=True))
