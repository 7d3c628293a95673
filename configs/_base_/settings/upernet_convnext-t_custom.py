# Own images, UPerNet on ConvNeXt-T with ImageNet weights, which are downloaded. The backbone is
# that of mmpretrain: pip install -e .[convnext]. As in mmseg, biases and norms do not decay; all
# layers learn at one rate, for mmseg's constructor of several knows no segmentor within another.
# The checkpoint of the best validation is kept beside the last one (guard, datasets/custom.py).
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    'mmseg::_base_/models/upernet_swin.py',
    '../schedules/adamw_transformer_20k.py',
]
_weights = 'https://download.openmmlab.com/mmclassification/v0/convnext/downstream/'
_head = dict(num_classes=2, loss_decode=dict(avg_non_ignore=True))
model = dict(
    data_preprocessor=dict(type='SemiDataPreprocessor'),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=[0, 1, 2, 3],
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'{_weights}convnext-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth',
            prefix='backbone.',
        ),
    ),
    decode_head=_head,
    auxiliary_head=_head,
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05), paramwise_cfg=dict(flat_decay_mult=0.0)
)
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
