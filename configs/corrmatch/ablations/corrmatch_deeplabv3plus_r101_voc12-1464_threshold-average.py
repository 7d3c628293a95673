# Table 12: the mean confidence of all pixels.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(refiners=dict(select=dict(update='per_pixel')))
