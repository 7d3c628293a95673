# Table 12: a threshold for each pixel position, which follows the confidence there.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-92.py'
model = dict(refiners=dict(select=dict(update='per_position')))
