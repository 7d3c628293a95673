# Views, dropout and teacher: no EMA teacher.
_base_ = '../unimatch_v2_dinov2-b_voc12-183.py'
model = dict(teacher=None, test_cfg=dict(predict_with='student'))
