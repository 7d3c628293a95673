# Own images, DeepLabV3+ on a ResNet-50 with ImageNet weights, which are downloaded.
# The checkpoint of the best validation is kept beside the last one (guard, datasets/custom.py).
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    '../models/deeplabv3plus_r50.py',
    '../schedules/sgd_20k.py',
]
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
