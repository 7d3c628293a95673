# Table 4: correlation.
_base_ = '../rankmatch_deeplabv3plus_r50_voc12-1464.py'
model = dict(heads=dict(rank=dict(consistency='kl')))
