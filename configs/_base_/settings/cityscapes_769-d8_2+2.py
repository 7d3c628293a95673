# Cityscapes, crop 769, output stride 8: 2 labeled and 2 unlabeled images on one GPU, 80 epochs,
# learning rate 0.01, weight decay 5e-4, as S4MC has it.
_base_ = [
    '../benchmark_runtime.py',
    '../datasets/cityscapes.py',
    '../models/deeplabv3plus_r101-d8_cityscapes_769.py',
    '../schedules/sgd_cityscapes_240e.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-4))
train_cfg = dict(max_epochs=80)
auto_scale_lr = dict(base_batch_size=4)
train_dataloader = dict(batch_size=4, dataset=dict(geometry=dict(crop=dict(crop_size=(769, 769)))))
