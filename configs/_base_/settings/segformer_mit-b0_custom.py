# Own images, SegFormer MiT-B0 with ImageNet weights, which are downloaded.
# The checkpoint of the best validation is kept beside the last one (guard, datasets/custom.py).
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    'mmseg::_base_/models/segformer_mit-b0.py',
    '../schedules/adamw_transformer_20k.py',
]
_weights = 'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
model = dict(
    data_preprocessor=dict(type='SemiDataPreprocessor'),
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint=f'{_weights}mit_b0_20220624-7e0fe6dd.pth')
    ),
    decode_head=dict(num_classes=2, loss_decode=dict(avg_non_ignore=True)),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))))
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
