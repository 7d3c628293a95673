# A DeepLabV3+ decoder on two maps of the UNet: layers before a normalization start as torch's do.
_base_ = '../unimatch_unet_digit-scenes-60.py'
model = dict(
    segmentor=dict(
        decode_head=dict(
            _delete_=True,
            type='DeepLabV3PlusHead',
            in_channels=(16, 64),
            in_index=(3, 1),
            channels=32,
            aspp_channels=32,
            low_channels=16,
            dilations=(1, 2, 3),
            num_classes=6,
            align_corners=False,
            loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0, avg_non_ignore=True),
        )
    )
)
