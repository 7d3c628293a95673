# Table 7: classifier.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(heads=dict(correlation=dict(tap='classifier')))
