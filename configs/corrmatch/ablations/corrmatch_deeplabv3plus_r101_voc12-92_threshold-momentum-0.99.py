# Table 9: 0.99.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-92.py'
model = dict(refiners=dict(select=dict(momentum=0.99)))
