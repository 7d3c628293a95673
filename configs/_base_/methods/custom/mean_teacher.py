# As in unimatch.py: the teacher averages in the start too.
_base_ = '../mean_teacher.py'
method = dict(teacher=dict(from_start=True))
