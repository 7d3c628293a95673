# Table 5: dynamic + hard + propagation.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(losses=dict(soft=None))
