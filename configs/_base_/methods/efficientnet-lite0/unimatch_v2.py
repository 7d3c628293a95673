# With UniMatch V2's 0.996 the teacher would be a quarter as old as the run is long.
_base_ = '../unimatch_v2.py'
method = dict(teacher=dict(momentum=0.99))
