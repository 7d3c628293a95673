# The papers' DeepLabV3+ on ResNet-101 with output stride 16, for 21 classes and crops of 321; the
# base of the networks of all benchmarks. The backbone starts from ImageNet weights, which are
# downloaded. Those of the UniMatch family fit too: tools/model_converters/semi2mmseg.py, and
# stem_channels=128.
_base_ = './deeplabv3plus_r50.py'
model = dict(
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(depth=101, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(
        _delete_=True,
        type='DeepLabV3PlusHead',
        in_channels=(256, 2048),
        in_index=(0, 3),
        channels=256,
        dilations=(6, 12, 18),
        num_classes=21,
        norm_cfg=_base_.norm_cfg,
        align_corners=True,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0, avg_non_ignore=True),
    ),
)
