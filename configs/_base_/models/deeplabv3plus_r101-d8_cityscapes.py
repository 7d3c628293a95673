# With output stride 8, and 100000 pixels for OHEM.
_base_ = './deeplabv3plus_r101-d16_cityscapes.py'
model = dict(
    backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(dilations=(12, 24, 36), sampler=dict(min_kept=100000)),
)
