# An EMA teacher labels, as in unimatch.py.
_base_ = '../corrmatch.py'
method = dict(teacher=dict(type='EMATeacher', momentum=0.996, from_start=True))
