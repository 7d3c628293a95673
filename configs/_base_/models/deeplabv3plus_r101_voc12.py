# DeepLabV3+ on ResNet-101 for VOC: 21 classes, crops of 321, output stride 8.
_base_ = './deeplabv3plus_r50.py'
model = dict(
    data_preprocessor=dict(size=(321, 321)),
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(depth=101),
    decode_head=dict(num_classes=21, align_corners=True),
)
