# As in unimatch.py: the teacher averages in the start too.
_base_ = '../cutmix_seg.py'
method = dict(teacher=dict(from_start=True))
