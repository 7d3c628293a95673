# The papers' DeepLabV3+ on Xception-65 with output stride 16, for the 81 classes of COCO. Give the
# backbone ImageNet weights (model.segmentor.backbone.init_cfg); without them it starts from
# scratch.
_base_ = './deeplabv3plus_r101-d16.py'
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True, type='Xception65', output_stride=16, norm_cfg=_base_.norm_cfg, init_cfg=None
    ),
    decode_head=dict(in_index=(0, 1), num_classes=81),
)
