# DINOv2-B and the decoder of UniMatch V2, without any normalization of batches, for 21 classes. The
# encoder starts from Meta's weights, which are downloaded. What is different with DINOv2-S and L is
# below: model = dict(segmentor=_base_.dinov2_s) in a child.
model = dict(
    type='PatchEncoderDecoder',
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='DINOv2',
        arch='base',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/'
            'dinov2_vitb14_pretrain.pth',
        ),
    ),
    decode_head=dict(
        type='UniMatchDPTHead',
        in_channels=(768, 768, 768, 768),
        channels=128,
        num_classes=21,
        align_corners=True,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0, avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
dinov2_s = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/'
            'dinov2_vits14_pretrain.pth'
        ),
    ),
    decode_head=dict(in_channels=(384, 384, 384, 384), channels=64),
)
dinov2_l = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/'
            'dinov2_vitl14_pretrain.pth'
        ),
    ),
    decode_head=dict(in_channels=(1024, 1024, 1024, 1024), channels=256),
)
