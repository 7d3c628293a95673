# With AugSeg's 0.999 the teacher would be as old as the run is long.
_base_ = '../augseg.py'
method = dict(teacher=dict(momentum=0.99))
