# CLIP's ViT-B/16 with the decoder of SemiVL, for 21 classes. Weights of CLIP and texts are made by
# tools/model_converters (docs/methods/semivl.md). Images are normalized as UniMatch does.
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
        type='CLIPVisionTransformer',
        init_cfg=dict(type='Pretrained', checkpoint='data/clip/clip-vit-base-patch16.pth'),
    ),
    decode_head=dict(
        type='LanguageGuidedHead',
        text='data/clip/voc12.pt',
        num_classes=21,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0, avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(426, 426)),
)
