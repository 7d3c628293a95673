# Table 7: fusion.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-732.py'
model = dict(heads=dict(correlation=dict(tap='penultimate')))
