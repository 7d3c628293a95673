# Own images, DINOv2-S with Meta's weights, which are downloaded, and UniMatch V2's decoder: for one
# small GPU. The encoder stays as it is (frozen=False trains it, a fortieth as fast as the decoder).
# A crop is a multiple of 14 pixels. The checkpoint of the best validation is kept beside the last
# one (guard, datasets/custom.py).
_base_ = [
    '../default_runtime.py',
    '../datasets/custom.py',
    '../models/dinov2-s_dpt.py',
    '../schedules/adamw_20k.py',
]
user_variables = dict(crop_size=(322, 322))
train_dataloader = dict(dataset=dict(geometry=dict(crop=dict(crop_size=(322, 322)))))
model = dict(backbone=dict(frozen=True), decode_head=dict(num_classes=2))
optim_wrapper = dict(
    optimizer=dict(lr=2e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.025)))
)
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
