# Table 5: random.
_base_ = '../rankmatch_deeplabv3plus_r50_voc12-92.py'
model = dict(heads=dict(rank=dict(strategy='random')))
