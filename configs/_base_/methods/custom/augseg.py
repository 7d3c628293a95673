# With AugSeg's 0.999 the teacher would follow a short run too late.
_base_ = '../augseg.py'
method = dict(teacher=dict(momentum=0.996, from_start=True))
