# Figure 5a: 0.75.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(refiners=dict(select=dict(initial=0.75)))
