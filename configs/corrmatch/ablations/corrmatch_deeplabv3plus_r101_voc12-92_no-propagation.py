# Table 5: dynamic + hard + soft; Table 6: none.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-92.py'
model = dict(refiners=dict(regions=None), heads=dict(correlation=None))
