# ssTEM with EfficientNet-Lite0, crop 128: 4 labeled and 4 unlabeled images a step, 1000 steps.
_base_ = [
    '../default_runtime.py',
    '../datasets/sstem.py',
    '../models/efficientnet-lite0_segformer.py',
    '../schedules/adamw_1k.py',
]
model = dict(decode_head=dict(num_classes=2))
