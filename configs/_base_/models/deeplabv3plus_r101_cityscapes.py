# DeepLabV3+ on ResNet-101 for Cityscapes: 19 classes, crops of 801, output stride 8, OHEM on the
# labeled images; sliding window of the crop's size with a stride of two thirds.
_base_ = './deeplabv3plus_r50.py'
model = dict(
    data_preprocessor=dict(size=(801, 801)),
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(depth=101),
    decode_head=dict(
        num_classes=19,
        align_corners=True,
        sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100000),
    ),
    test_cfg=dict(mode='slide', crop_size=(801, 801), stride=(534, 534)),
)
