# Own images, a small UNet from scratch.
# The checkpoint of the best validation is kept beside the last one: that of the start, which trains
# on labels alone, where nothing later is better.
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    '../models/unet_small.py',
    '../schedules/adamw_20k.py',
]
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
