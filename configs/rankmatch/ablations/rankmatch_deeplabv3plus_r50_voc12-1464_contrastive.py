# Table 4: contrastive.
_base_ = '../rankmatch_deeplabv3plus_r50_voc12-1464.py'
model = dict(
    heads=dict(rank=None, contrast=dict(type='ContrastHead')),
    teacher=dict(type='EMATeacher', momentum=0.0),
)
