# With few labels and few steps the student, which labels for itself, unlearns the rare classes: an
# EMA teacher labels (docs/results.md).
_base_ = '../unimatch.py'
method = dict(teacher=dict(type='EMATeacher', momentum=0.99))
