# With output stride 8, windows of 769, labeled images without OHEM.
_base_ = './deeplabv3plus_r101-d8_cityscapes.py'
model = dict(
    decode_head=dict(sampler=None),
    test_cfg=dict(crop_size=(769, 769), stride=(512, 512)),
)
