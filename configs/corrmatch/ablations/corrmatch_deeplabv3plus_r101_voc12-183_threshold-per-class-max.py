# Table 13: each class follows its highest confidence.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-183.py'
model = dict(refiners=dict(select=dict(update='per_class_max')))
