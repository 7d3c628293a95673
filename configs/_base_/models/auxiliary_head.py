# The auxiliary head of AEL and U2PL on the third stage of a ResNet: 3x3 to 256 channels, 1x1 to the
# classes, weight 0.4, OHEM as on the main head. A config adds num_classes.
auxiliary_head = dict(
    type='FCNHead',
    in_channels=1024,
    in_index=2,
    channels=256,
    num_convs=1,
    concat_input=False,
    dropout_ratio=0.1,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    align_corners=True,
    sampler=dict(type='MeanOHEMPixelSampler', thresh=0.7, min_kept=100000),
    loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4, avg_non_ignore=True),
)
