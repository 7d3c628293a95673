# Cityscapes, crop 769, output stride 8: 2 labeled and 2 unlabeled images on one GPU, learning rate
# 0.01, as S4MC has it.
_base_ = [
    '../default_runtime.py',
    '../datasets/cityscapes.py',
    '../models/deeplabv3plus_r101-d8_cityscapes_769.py',
    '../schedules/sgd_cityscapes_240e.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-4))
auto_scale_lr = dict(base_batch_size=4)
train_dataloader = dict(batch_size=4, dataset=dict(geometry=dict(crop=dict(crop_size=(769, 769)))))
