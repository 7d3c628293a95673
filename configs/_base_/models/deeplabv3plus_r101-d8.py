# The papers' DeepLabV3+ on ResNet-101 with output stride 8.
_base_ = './deeplabv3plus_r101-d16.py'
model = dict(
    backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(dilations=(12, 24, 36)),
)
