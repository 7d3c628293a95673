# Table 4: correlation; Table 6: KL.
_base_ = '../rankmatch_deeplabv3plus_r50_voc12-92.py'
model = dict(heads=dict(rank=dict(consistency='kl')))
