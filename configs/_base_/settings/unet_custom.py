# Own images, a small UNet from scratch.
# The checkpoint of the best validation is kept beside the last one (guard, datasets/custom.py).
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    '../models/unet_small.py',
    '../schedules/adamw_20k.py',
]
# A classifier that starts at about the root of its 24 channels: from mmseg's 0.01 a rare class is
# learned hundreds of steps later.
model = dict(
    decode_head=dict(init_cfg=dict(type='Normal', std=0.2, override=dict(name='conv_seg')))
)
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
