# Section 4.2: refined at inference.
_base_ = '../s4mc_deeplabv3plus_r101_voc12-366.py'
model = dict(test_cfg=dict(refine=True))
