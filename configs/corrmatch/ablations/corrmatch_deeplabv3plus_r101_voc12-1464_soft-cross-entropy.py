# Table 10: soft cross entropy.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(losses=dict(soft=dict(kind='cross_entropy')))
