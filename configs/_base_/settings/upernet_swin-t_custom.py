# Own images, UPerNet on Swin-T with ImageNet weights, which are downloaded.
# The checkpoint of the best validation is kept beside the last one (guard, datasets/custom.py).
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    'mmseg::_base_/models/upernet_swin.py',
    '../schedules/adamw_transformer_20k.py',
]
_weights = 'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/'
_head = dict(num_classes=2, loss_decode=dict(avg_non_ignore=True))
model = dict(
    data_preprocessor=dict(type='SemiDataPreprocessor'),
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'{_weights}swin_tiny_patch4_window7_224_20220317-1cdeb081.pth',
        )
    ),
    decode_head=_head,
    auxiliary_head=_head,
)
_none = dict(decay_mult=0.0)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=_none)))
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
