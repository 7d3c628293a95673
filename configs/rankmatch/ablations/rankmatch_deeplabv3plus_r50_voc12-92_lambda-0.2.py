# Table 8: 0.2.
_base_ = '../rankmatch_deeplabv3plus_r50_voc12-92.py'
model = dict(heads=dict(rank=dict(loss_weight=0.2)))
