# An EMA teacher labels, as in unimatch.py.
# Agents are drawn from the decoder's fused maps, which stand for the output of the ASPP.
_base_ = '../rankmatch.py'
method = dict(
    teacher=dict(type='EMATeacher', momentum=0.99), heads=dict(rank=dict(tap='penultimate'))
)
